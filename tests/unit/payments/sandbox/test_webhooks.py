"""Bytes, signature and timing of webhook events, without I/O."""

from __future__ import annotations

import json
import random

import pytest

from services.payments.sandbox import webhooks
from services.payments.sandbox.webhooks import Event

PAYMENT = {"id": "pay_1", "created_at": 200, "notes": [], "_own": 1}
LINK = {"status": "paid", "id": "plink_1", "created_at": 100}


def plan(events: list[Event], **knobs: object) -> list[webhooks.Planned]:
    calm: dict[str, object] = {
        "spread_s": 0.1,
        "shuffle_s": 0,
        "copies": 0,
        "drop_fraction": 0,
        "drop_events": frozenset(),
        "rng": random.Random(1),
    }
    return webhooks.plan(events, **(calm | knobs))  # type: ignore[arg-type]


def test_the_signature_is_that_of_the_known_answer() -> None:
    expected = "2fe04e22977002e6c7cb553adab8b460cb9e2a4970d5953cb27a8472752e3bbc"
    assert webhooks.sign("123456", b'{"a":1,"b":2,"c":{"d":3}}') == expected


def test_bodies_are_compact_with_escaped_slashes_and_ascii_only() -> None:
    body = webhooks.encode({"url": "a/b", "text": "₹"})
    assert body == b'{"url":"a\\/b","text":"\\u20b9"}'
    assert json.loads(body) == {"url": "a/b", "text": "₹"}


def test_link_events_have_sorted_keys_and_the_time_of_their_link() -> None:
    event = Event("payment_link.paid", {"payment_link": LINK, "order": {}, "payment": PAYMENT}, created_at=200)
    document = webhooks.envelope("acc_1", event)
    assert list(document) == sorted(document)
    assert list(document["payload"]["payment_link"]["entity"]) == ["created_at", "id", "status"]
    assert document["created_at"] == 100
    assert document["contains"] == ["payment_link", "order", "payment"]


def test_other_events_keep_their_order_and_time_and_hide_the_sandboxs_notes() -> None:
    document = webhooks.envelope("acc_1", Event("payment.captured", {"payment": PAYMENT}, created_at=200))
    assert list(document) == ["entity", "account_id", "event", "contains", "payload", "created_at"]
    assert document["created_at"] == 200
    assert document["payload"] == {"payment": {"entity": {"id": "pay_1", "created_at": 200, "notes": []}}}


def test_without_a_signature_there_is_no_header_for_it() -> None:
    assert "X-Razorpay-Signature" not in webhooks.headers("e", None)
    assert webhooks.headers("e", "s")["X-Razorpay-Signature"] == "s"


def climb(name: str, status: int | None, scale: float = 1.0) -> list[float]:
    """Times of all steps after an attempt at 0, for an endpoint that fails at once, the disabling last."""
    at, rung, quick_used, times = 0.0, 0, False, []
    while True:
        step = webhooks.after_failure(name, status, rung=rung, quick_used=quick_used, now=at, event_at=0, scale=scale)
        at, rung, quick_used = step.at, step.rung, step.quick_used
        times.append(at)
        if step.give_up:
            return times


def test_retries_follow_the_measured_ladder_and_end_after_a_day() -> None:
    assert climb("payment_link.paid", 500) == [*webhooks.LADDER_S[1:], 86_400]
    assert climb("payment.captured", 404) == [*webhooks.LADDER_S[1:], 86_400]


def test_three_events_are_tried_again_at_once_after_a_5xx() -> None:
    times = climb("payment.captured", 503)
    assert times[0] == 0.23
    assert len(times) == len(webhooks.LADDER_S) + 1


def test_the_whole_ladder_is_scaled() -> None:
    assert climb("payment_link.paid", None, scale=0.001) == pytest.approx(
        [at / 1000 for at in [*webhooks.LADDER_S[1:], 86_400]]
    )


def test_undisturbed_events_leave_in_their_order() -> None:
    events = [Event(name, {}, 0) for name in ("a", "b", "c")]
    planned = plan(events)
    assert [each.index for each in sorted(planned, key=lambda each: each.delay_s)] == [0, 1, 2]
    assert not any(each.dropped for each in planned)


def test_shuffling_mixes_copies_are_added_and_drops_take_all_copies() -> None:
    events = [Event(name, {}, 0) for name in "abcdefgh"]
    shuffled = [each.index for each in sorted(plan(events, shuffle_s=10), key=lambda each: each.delay_s)]
    assert shuffled != list(range(8)) and sorted(shuffled) == list(range(8))
    assert len(plan(events, copies=2)) == 24
    dropped = plan(events, copies=1, drop_events=frozenset({"b"}))
    assert [each.index for each in dropped if each.dropped] == [1, 1]
    assert all(each.dropped for each in plan(events, drop_fraction=1))
