"""The customer's side: the page and its button."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import requests

from tests.integration.payments.sandbox.conftest import Client, SandboxProcess
from tests.integration.payments.sandbox.test_api import new_link


def press_pay(link_id: str, url: str, vpa: str) -> requests.Response:
    """What a browser sends; it does not follow the redirect."""
    with requests.Session() as browser:
        browser.trust_env = False
        return browser.post(f"{url}/l/{link_id}/pay", data={"vpa": vpa}, allow_redirects=False, timeout=5)


def test_a_paid_link_shows_up_everywhere_with_the_same_payment(sandbox: SandboxProcess, client: Client) -> None:
    link = new_link(
        client, notes={"invoice": "KH-7"}, customer={"email": "asha@example.com", "contact": "+919000000000"}
    )

    payment = sandbox.pay(link)["payment"]

    assert payment == client.payment.fetch(payment["id"])
    assert (payment["status"], payment["captured"], payment["method"]) == ("captured", True, "upi")
    assert payment["description"] == "#" + link["id"].removeprefix("plink_")
    assert (payment["notes"], payment["email"]) == ({"invoice": "KH-7"}, "asha@example.com")
    paid = client.payment_link.fetch(link["id"])
    assert (paid["status"], paid["amount_paid"]) == ("paid", link["amount"])
    assert [entry["payment_id"] for entry in paid["payments"]] == [payment["id"]]
    assert client.payment_link.all({"payment_id": payment["id"]})["payment_links"] == [paid]
    order = client.order.fetch(paid["order_id"])
    assert (order["status"], order["amount_due"], order["attempts"]) == ("paid", 0, 1)
    assert client.order.payments(order["id"])["items"] == [payment]


def test_pressing_pay_many_times_at_once_pays_once(sandbox: SandboxProcess, client: Client) -> None:
    link = new_link(client)

    with ThreadPoolExecutor(8) as presses:
        answers = list(presses.map(lambda _: press_pay(link["id"], sandbox.url, "success@razorpay"), range(8)))

    assert {answer.status_code for answer in answers} == {303}
    order_id = client.payment_link.fetch(link["id"])["order_id"]
    assert client.order.payments(order_id)["count"] == 1
    assert "Paid" in sandbox.http.get(link["short_url"], timeout=5).text


def test_a_declined_attempt_stays_and_the_link_can_still_be_paid(sandbox: SandboxProcess, client: Client) -> None:
    link = new_link(client)

    press_pay(link["id"], sandbox.url, "failure@razorpay")

    assert "did not go through" in sandbox.http.get(link["short_url"], timeout=5).text
    assert client.payment_link.fetch(link["id"])["status"] == "created"
    sandbox.pay(link)
    order = client.order.fetch(client.payment_link.fetch(link["id"])["order_id"])
    attempts = client.order.payments(order["id"])["items"]
    assert [attempt["status"] for attempt in attempts] == ["captured", "failed"]
    assert (order["status"], order["attempts"]) == ("paid", 2)


def test_a_cancelled_link_takes_no_money(sandbox: SandboxProcess, client: Client) -> None:
    link = new_link(client)
    client.payment_link.cancel(link["id"])

    answer = press_pay(link["id"], sandbox.url, "success@razorpay")

    assert answer.status_code == 400
    assert "This link was cancelled" in answer.text
    assert "order_id" not in client.payment_link.fetch(link["id"])


def test_the_page_shows_text_of_the_merchant_as_text(sandbox: SandboxProcess, client: Client) -> None:
    link = new_link(client, description="<script>alert(1)</script>", amount=12_345_678_90)
    page = sandbox.http.get(link["short_url"], timeout=5).text
    assert "&lt;script&gt;" in page and "<script" not in page
    assert "₹1,23,45,678.90" in page
    assert sandbox.http.get(f"{sandbox.url}/l/plink_nothing", timeout=5).status_code == 404


def test_a_callback_carries_a_signature_the_sdk_accepts(sandbox: SandboxProcess, client: Client) -> None:
    link = new_link(client, callback_url="http://127.0.0.1:9/thanks?a=b", callback_method="get")

    location = press_pay(link["id"], sandbox.url, "success@razorpay").headers["Location"]

    query = dict(pair.split("=") for pair in location.split("?", 1)[1].split("&"))
    assert query.pop("a") == "b"
    signature = query.pop("razorpay_signature")
    fields = {name.removeprefix("razorpay_"): value for name, value in query.items() if name != "razorpay_payment_id"}
    fields |= {"razorpay_payment_id": query["razorpay_payment_id"], "razorpay_signature": signature}
    assert client.utility.verify_payment_link_signature(fields)


def test_a_partial_link_is_paid_in_parts_and_only_then_paid(sandbox: SandboxProcess, client: Client) -> None:
    link = new_link(client, amount=10_000, accept_partial=True, first_min_partial_amount=4_000)

    first = sandbox.post(f"/l/{link['id']}/pay", {"vpa": "success@razorpay", "amount": 4_000})["payment_link"]
    rest = sandbox.post(f"/l/{link['id']}/pay", {"vpa": "success@razorpay"})["payment_link"]

    assert (first["status"], first["amount_paid"]) == ("partially_paid", 4_000)
    assert (rest["status"], rest["amount_paid"], len(rest["payments"])) == ("paid", 10_000, 2)


def test_the_oracle_counts_captures_refunds_and_fees(sandbox: SandboxProcess, client: Client) -> None:
    before = sandbox.ledger()["totals"].get("INR", {"captured": 0, "refunded": 0, "fees": 0, "payments": {}})
    payment = sandbox.pay(new_link(client, amount=10_000, reference_id=uuid4().hex))["payment"]
    sandbox.pay(new_link(client), "failure@razorpay")
    client.payment.refund(payment["id"], {"amount": 2_500})

    after = sandbox.ledger()["totals"]["INR"]

    moved = {name: after[name] - before[name] for name in ("captured", "refunded", "fees")}
    assert moved == {"captured": 10_000, "refunded": 2_500, "fees": 236}
    assert Counter(after["payments"]) - Counter(before["payments"]) == {"captured": 1, "failed": 1}
