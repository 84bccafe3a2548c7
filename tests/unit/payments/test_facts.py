"""Razorpay's envelope, with its drift, as facts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.payments.facts import LINK_RANKS, RANKS, LinkFact, PaymentFact, read_webhook, routing_key
from shared.domain.errors import Rejected

ID = "AAAAAAAAAAAAAA"
PAYMENT: dict[str, Any] = {
    "id": f"pay_{ID}",
    "amount": 118_000,
    "currency": "INR",
    "status": "captured",
    "order_id": f"order_{ID}",
    "description": f"#{ID}",
    "method": "upi",
    "fee": 2_784,
    "tax": 424,
    "notes": [],
}
LINK: dict[str, Any] = {
    "id": f"plink_{ID}",
    "amount": 118_000,
    "amount_paid": 118_000,
    "status": "paid",
    "order_id": f"order_{ID}",
    "reference_id": "kh-1",
    "notes": None,
}


def body(event: str, /, **entities: Any) -> bytes:
    payload = {name: {"entity": entity} for name, entity in entities.items()}
    return json.dumps({"event": event, "account_id": "acc_1", "payload": payload}).encode()


def captured(**changes: Any) -> PaymentFact | None:
    return read_webhook(body("payment.captured", payment=PAYMENT | changes)).payment


def test_a_captured_payment_has_all_that_money_needs() -> None:
    assert captured() == PaymentFact(
        id=f"pay_{ID}",
        status="captured",
        amount_minor=118_000,
        currency="INR",
        order_id=f"order_{ID}",
        link_id=f"plink_{ID}",
        method="upi",
        fee_minor=2_784,
        tax_minor=424,
    )


def test_ranks_rise_from_created_to_refunded_and_a_failed_payment_may_still_be_captured() -> None:
    assert sorted(RANKS, key=RANKS.__getitem__) == ["created", "failed", "authorized", "captured", "refunded"]
    assert max(LINK_RANKS, key=LINK_RANKS.__getitem__) == "paid"


def test_the_status_decides_and_not_the_captured_flag() -> None:
    fact = captured(status="failed", captured=True)
    assert fact is not None
    assert fact.rank == RANKS["failed"]


@pytest.mark.parametrize("notes", [[], {}, None, "text", {"order_id": "order_ZZZZZZZZZZZZZZ"}])
def test_the_shape_and_content_of_notes_never_matter(notes: Any) -> None:
    assert captured(notes=notes) == captured()


def test_inside_payment_link_paid_the_order_may_come_without_prefix() -> None:
    order = {"id": ID, "merchant_id": "X"}
    webhook = read_webhook(
        body(
            "payment_link.paid",
            payment=PAYMENT | {"order_id": None},
            order=order,
            payment_link=LINK | {"order_id": None},
        )
    )
    assert webhook.payment is not None
    assert webhook.payment.order_id == f"order_{ID}"
    assert webhook.link == LinkFact(f"plink_{ID}", "paid", 118_000, 118_000, "kh-1", f"order_{ID}")


def test_a_payment_that_names_no_order_has_the_one_of_the_link_it_comes_with() -> None:
    webhook = read_webhook(
        body("payment_link.paid", payment=PAYMENT | {"order_id": None}, payment_link=LINK | {"order_id": f"order_{ID}"})
    )
    assert webhook.payment is not None
    assert webhook.payment.order_id == f"order_{ID}"


def test_an_entity_without_its_wrapping_is_read_too() -> None:
    bare = json.dumps({"event": "payment.captured", "payload": {"payment": PAYMENT}}).encode()
    assert read_webhook(bare).payment == captured()


@pytest.mark.parametrize("payload", [None, [], {}, "text", {"payment": None}, {"payment": []}])
def test_an_event_about_something_else_has_no_facts(payload: Any) -> None:
    webhook = read_webhook(json.dumps({"event": "settlement.processed", "payload": payload}).encode())
    assert (webhook.payment, webhook.link, webhook.object_ids) == (None, None, ())


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "pay_1"},
        {"id": None},
        {"id": f"pay_{ID}\n"},
        {"amount": -1},
        {"amount": 1.5},
        {"amount": True},
        {"amount": None},
        {"amount": 2**63},
        {"currency": "inr"},
        {"currency": None},
        {"status": "settled"},
        {"status": ["captured"]},
    ],
)
def test_money_that_cannot_be_read_is_refused_and_not_guessed(changes: dict[str, Any]) -> None:
    with pytest.raises(Rejected) as refused:
        captured(**changes)
    assert refused.value.code == "unreadable"


def test_a_fee_that_cannot_be_read_holds_up_no_credit() -> None:
    fact = captured(fee="2,784", tax=4.24)
    assert fact is not None
    assert (fact.amount_minor, fact.fee_minor, fact.tax_minor) == (118_000, None, None)


@pytest.mark.parametrize("description", [None, 7, "", "Invoice 1", "#", f"#{ID}A", f"# {ID}", f"#{ID}\n"])
def test_only_razorpays_own_form_of_a_description_names_a_link(description: Any) -> None:
    fact = captured(description=description)
    assert fact is not None
    assert fact.link_id is None


@pytest.mark.parametrize("event", ["payment.captured", "order.paid", "payment_link.paid"])
def test_an_event_about_money_without_its_payment_is_unreadable(event: str) -> None:
    with pytest.raises(Rejected):
        read_webhook(body(event, payment_link=LINK))


def test_all_events_of_one_payment_go_to_one_partition() -> None:
    failed = PAYMENT | {"status": "failed"}
    bodies = [
        body("payment.failed", payment=failed),
        body("payment.captured", payment=PAYMENT),
        body("order.paid", payment=PAYMENT, order={"id": f"order_{ID}"}),
        body("payment_link.paid", payment=PAYMENT, order={"id": ID}, payment_link=LINK),
    ]
    assert {routing_key(each) for each in bodies} == {f"order_{ID}"}
    assert routing_key(body("payment_link.expired", payment_link=LINK | {"status": "expired", "order_id": ""})) == (
        f"plink_{ID}"
    )
    assert routing_key(b"not json") is None


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_no_body_is_an_error_of_another_kind(odd: bytes) -> None:
    try:
        read_webhook(odd)
    except Rejected as refused:
        assert refused.code == "unreadable"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(PAYMENT)), json_values, st.sampled_from(sorted(LINK)), json_values)
def test_no_value_of_any_field_is_an_error_of_another_kind(one: str, value: Any, other: str, another: Any) -> None:
    odd = body("payment_link.paid", payment=PAYMENT | {one: value}, payment_link=LINK | {other: another})
    try:
        webhook = read_webhook(odd)
    except Rejected as refused:
        assert refused.code == "unreadable"
    else:
        assert webhook.payment is not None
        assert webhook.link is not None
