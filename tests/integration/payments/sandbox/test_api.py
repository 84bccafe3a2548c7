"""The API as the real SDK sees it."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import pytest
import razorpay.errors

from tests.integration.payments.sandbox.conftest import Client, SandboxProcess

UNKNOWN = "0" * 14


def new_link(client: Client, amount: int = 118_000, **fields: Any) -> dict[str, Any]:
    link: dict[str, Any] = client.payment_link.create(
        {"amount": amount, "currency": "INR", "reference_id": uuid4().hex, **fields}
    )
    return link


def authorised(sandbox: SandboxProcess, client: Client, amount: int) -> str:
    """Id of a payment that waits for its capture."""
    order = client.order.create({"amount": amount, "currency": "INR", "payment": {"capture": "manual"}})
    payment_id: str = sandbox.post(f"/sandbox/orders/{order['id']}/pay", {})["razorpay_payment_id"]
    return payment_id


def test_an_order_is_created_with_razorpays_fields_and_read_back(client: Client) -> None:
    order = client.order.create({"amount": 50_000, "currency": "INR", "receipt": "KH-1"})

    assert re.fullmatch(r"order_[0-9A-Za-z]{14}", order["id"])
    assert order == client.order.fetch(order["id"])
    shown = {
        key: order[key] for key in ("entity", "amount", "amount_paid", "amount_due", "status", "attempts", "notes")
    }
    assert shown == {
        "entity": "order",
        "amount": 50_000,
        "amount_paid": 0,
        "amount_due": 50_000,
        "status": "created",
        "attempts": 0,
        "notes": [],
    }
    assert not [key for key in order if key.startswith("_")]


def test_the_same_receipt_twice_makes_two_orders_found_by_it(client: Client) -> None:
    receipt = uuid4().hex
    made = [client.order.create({"amount": 100, "currency": "INR", "receipt": receipt})["id"] for _ in range(2)]

    found = client.order.all({"receipt": receipt})

    assert [order["id"] for order in found["items"]] == made[::-1]
    assert (found["entity"], found["count"]) == ("collection", 2)


def test_lists_are_newest_first_and_paged_by_offset_without_a_total(client: Client) -> None:
    receipt = uuid4().hex
    made = [client.order.create({"amount": 100, "currency": "INR", "receipt": receipt})["id"] for _ in range(5)]

    pages = [client.order.all({"receipt": receipt, "count": 2, "skip": skip}) for skip in (0, 2, 4, 6)]

    assert [[order["id"] for order in page["items"]] for page in pages] == [
        made[:2:-1],
        made[2:0:-1],
        made[:1],
        [],
    ]
    assert set(pages[0]) == {"entity", "count", "items"}
    with pytest.raises(razorpay.errors.BadRequestError, match="may not be greater than 100"):
        client.order.all({"count": 101})


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"amount": 99}, "at least INR 1.00"),
        ({"amount": 100.5}, "must be an integer"),
        ({"amount": None}, "amount field is required"),
        ({"currency": "XXX"}, "Currency is not supported"),
        ({"receipt": "r" * 41}, "may not be greater than 40"),
        ({"notes": {str(n): "v" for n in range(16)}}, "less than or equal to 15"),
        ({"notes": {"k": "v" * 257}}, "greater than 256"),
        ({"reciept": "typo"}, "reciept is/are not required and should not be sent"),
    ],
)
def test_an_order_outside_the_limits_is_refused(client: Client, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(razorpay.errors.BadRequestError, match=re.escape(text)):
        client.order.create({"amount": 100, "currency": "INR", **fields})


def test_an_unknown_id_is_400_and_an_unknown_url_404(sandbox: SandboxProcess, client: Client) -> None:
    with pytest.raises(razorpay.errors.BadRequestError, match="The id provided does not exist"):
        client.payment.fetch(f"pay_{UNKNOWN}")
    with pytest.raises(razorpay.errors.BadRequestError, match="pay_123 is not a valid id"):
        client.payment.fetch("pay_123")
    answer = sandbox.http.get(f"{sandbox.url}/v1/invoicez", timeout=5)
    assert answer.status_code == 404
    assert answer.json()["error"]["description"] == "The requested URL was not found on the server."
    assert sandbox.http.delete(f"{sandbox.url}/v1/orders", timeout=5).status_code == 404


def test_ids_are_compared_with_their_case(client: Client) -> None:
    order_id = client.order.create({"amount": 100, "currency": "INR"})["id"]
    with pytest.raises(razorpay.errors.BadRequestError, match="does not exist"):
        client.order.fetch("order_" + order_id.removeprefix("order_").swapcase())


@pytest.mark.parametrize(
    ("key_id", "secret", "text"),
    [
        ("rzp_test_other", "x", "The api key provided is invalid"),
        ("rzp_test_khatasandbox1", "x", "Authentication failed"),
    ],
)
def test_a_wrong_key_is_401(sandbox: SandboxProcess, key_id: str, secret: str, text: str) -> None:
    answer = sandbox.http.get(f"{sandbox.url}/v1/orders", auth=(key_id, secret), timeout=5)
    assert (answer.status_code, answer.json()["error"]["description"]) == (401, text)


def test_a_link_has_no_order_until_it_is_opened(sandbox: SandboxProcess, client: Client) -> None:
    link = new_link(client, description="Usage of November", notes={"invoice": "KH/26-27/1"})
    assert "order_id" not in link
    assert (link["payments"], link["cancelled_at"], link["expired_at"], link["expire_by"]) == (None, 0, 0, 0)

    page = sandbox.http.get(link["short_url"], timeout=5)

    assert "Usage of November" in page.text
    opened = client.payment_link.fetch(link["id"])
    order = client.order.fetch(opened["order_id"])
    assert (order["receipt"], order["amount"]) == (link["reference_id"], link["amount"])
    assert order["product_id"] == link["id"].removeprefix("plink_")


def test_a_link_without_notes_has_null_where_an_order_has_an_empty_list(client: Client) -> None:
    assert new_link(client)["notes"] is None


def test_a_reference_id_is_taken_once_even_after_a_cancellation(client: Client) -> None:
    link = new_link(client)
    client.payment_link.cancel(link["id"])

    with pytest.raises(razorpay.errors.BadRequestError, match="creation with reference ID already attempted"):
        new_link(client, reference_id=link["reference_id"])

    found = client.payment_link.all({"reference_id": link["reference_id"]})
    assert list(found) == ["payment_links"]
    assert [(each["id"], each["status"]) for each in found["payment_links"]] == [(link["id"], "cancelled")]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"amount": 1}, "at least INR 1.00"),
        ({"reference_id": "r" * 41}, "reference id may not be greater than 40"),
        ({"expire_by": 1_000_000_000}, "atleast 15 minutes in future"),
        ({"upi_link": True}, "not supported in Test Mode"),
        ({"notes": {"k": "v" * 256}}, "greater than 255"),
    ],
)
def test_a_link_outside_the_limits_is_refused(client: Client, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(razorpay.errors.BadRequestError, match=re.escape(text)):
        new_link(client, **fields)


def test_a_link_is_changed_while_open_and_never_afterwards(sandbox: SandboxProcess, client: Client) -> None:
    link = new_link(client)
    assert client.payment_link.edit(link["id"], {"notes": {"k": "v"}})["notes"] == {"k": "v"}
    with pytest.raises(razorpay.errors.BadRequestError, match="amount is/are not required"):
        client.payment_link.edit(link["id"], {"amount": 200})

    sandbox.pay(link)

    with pytest.raises(razorpay.errors.BadRequestError, match="only in created or partially paid"):
        client.payment_link.edit(link["id"], {"notes": {}})
    with pytest.raises(razorpay.errors.BadRequestError, match="cannot cancel or expire an already paid"):
        client.payment_link.cancel(link["id"])


def test_a_capture_must_equal_the_amount_and_happens_once(sandbox: SandboxProcess, client: Client) -> None:
    payment_id = authorised(sandbox, client, 10_000)
    before = client.payment.fetch(payment_id)
    assert (before["status"], before["captured"], before["fee"], before["tax"]) == ("authorized", False, None, None)

    with pytest.raises(razorpay.errors.BadRequestError, match="must be equal to the amount authorized"):
        client.payment.capture(payment_id, 9_999, {"currency": "INR"})
    captured = client.payment.capture(payment_id, 10_000, {"currency": "INR"})
    with pytest.raises(razorpay.errors.BadRequestError, match="already been captured"):
        client.payment.capture(payment_id, 10_000, {"currency": "INR"})

    # 2 % of 10000 is 200, GST of 18 % on that is 36; the fee includes the tax.
    assert (captured["status"], captured["fee"], captured["tax"]) == ("captured", 236, 36)
    assert client.order.fetch(captured["order_id"])["status"] == "paid"


def test_a_second_authorised_payment_of_a_paid_order_cannot_be_captured(
    sandbox: SandboxProcess, client: Client
) -> None:
    first = client.payment.fetch(authorised(sandbox, client, 10_000))
    second = sandbox.post(f"/sandbox/orders/{first['order_id']}/pay", {})["razorpay_payment_id"]
    client.payment.capture(first["id"], 10_000, {"currency": "INR"})

    with pytest.raises(razorpay.errors.BadRequestError, match="order is already paid"):
        client.payment.capture(second, 10_000, {"currency": "INR"})


def test_a_refund_with_the_same_key_and_body_happens_once(sandbox: SandboxProcess, client: Client) -> None:
    payment = sandbox.pay(new_link(client, amount=50_000))["payment"]
    headers = {"X-Refund-Idempotency": uuid4().hex}

    first = client.payment.refund(payment["id"], {"amount": 20_000}, headers=headers)
    again = client.payment.refund(payment["id"], {"amount": 20_000}, headers=headers)

    assert first == again
    with pytest.raises(razorpay.errors.BadRequestError, match="Different request with the same idempotency key"):
        client.payment.refund(payment["id"], {"amount": 20_001}, headers=headers)
    after = client.payment.fetch(payment["id"])
    assert (after["amount_refunded"], after["refund_status"], after["status"]) == (20_000, "partial", "captured")


def test_refunds_never_exceed_what_was_captured(sandbox: SandboxProcess, client: Client) -> None:
    payment_id = sandbox.pay(new_link(client, amount=50_000))["payment"]["id"]
    with pytest.raises(razorpay.errors.BadRequestError, match="greater than amount captured"):
        client.payment.refund(payment_id, {"amount": 50_001})
    client.payment.refund(payment_id, {"amount": 20_000})
    with pytest.raises(razorpay.errors.BadRequestError, match="total refund amount is greater"):
        client.payment.refund(payment_id, {"amount": 30_001})

    rest = client.payment.refund(payment_id, {})

    assert rest["amount"] == 30_000
    assert client.payment.fetch(payment_id)["status"] == "refunded"
    assert [refund["id"] for refund in client.payment.fetch_multiple_refund(payment_id)["items"]][0] == rest["id"]
    with pytest.raises(razorpay.errors.BadRequestError, match="fully refunded already"):
        client.payment.refund(payment_id, {})


def test_only_captured_money_is_refunded(sandbox: SandboxProcess, client: Client) -> None:
    with pytest.raises(razorpay.errors.BadRequestError, match="should be captured for action"):
        client.payment.refund(authorised(sandbox, client, 10_000), {})
