"""Webhooks over the wire: signed, repeated, disordered, and still there after a kill."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import razorpay.errors
import requests

from tests.integration.payments.sandbox.conftest import (
    WEBHOOK_SECRET,
    Client,
    Received,
    Receiver,
    SandboxProcess,
    until,
)
from tests.integration.payments.sandbox.test_api import new_link

FOUR = ["payment.authorized", "payment.captured", "order.paid", "payment_link.paid"]


def document(received: Received) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(received.body)
    return found


def names(received: list[Received]) -> list[str]:
    return [document(each)["event"] for each in received]


def test_a_paid_link_sends_four_signed_events(hooked: SandboxProcess, client: Client, receiver: Receiver) -> None:
    link = new_link(client, description="a/b – ₹")
    payment = hooked.pay(link)["payment"]

    received = receiver.wait_for(4)

    assert sorted(names(received)) == sorted(FOUR)
    assert len({each.event_id for each in received}) == 4
    for each in received:
        assert client.utility.verify_webhook_signature(each.body.decode(), each.signature, WEBHOOK_SECRET)
        with pytest.raises(razorpay.errors.SignatureVerificationError):
            client.utility.verify_webhook_signature(each.body.decode(), each.signature, "another")
        assert each.headers["User-Agent"] == "Razorpay-Webhook/v1"
        assert each.headers["Request-Id"] == each.event_id
        assert each.body.isascii() and b'": ' not in each.body
        envelope = document(each)
        assert envelope["contains"] == list(envelope["payload"]) or envelope["event"].startswith("payment_link.")
        assert envelope["payload"]["payment"]["entity"]["id"] == payment["id"]
    by_name = {document(each)["event"]: document(each) for each in received}
    authorised = by_name["payment.authorized"]["payload"]["payment"]["entity"]
    assert (authorised["status"], authorised["fee"]) == ("authorized", None)
    assert by_name["payment.captured"]["payload"]["payment"]["entity"]["status"] == "captured"
    paid = by_name["payment_link.paid"]
    assert list(paid) == sorted(paid)
    assert paid["created_at"] == link["created_at"]
    assert paid["contains"] == ["payment_link", "order", "payment"]


def test_a_refused_event_comes_again_with_the_same_bytes_signature_and_id(
    hooked: SandboxProcess, client: Client, receiver: Receiver
) -> None:
    receiver.answers = [500, 404, 302]  # 404 and a redirect are failures too
    link = new_link(client)
    hooked.post("/sandbox/knobs", {"drop_events": FOUR[1:]})
    hooked.pay(link)

    received = receiver.wait_for(4)

    assert [each.answered for each in received] == [500, 404, 302, 200]
    assert len({(each.body, each.signature, each.event_id) for each in received}) == 1


def test_a_retry_keeps_the_secret_of_its_event(hooked: SandboxProcess, client: Client, receiver: Receiver) -> None:
    receiver.answers = [400]
    hooked.post("/sandbox/knobs", {"drop_events": FOUR[1:]})
    hooked.pay(new_link(client))
    receiver.wait_for(1)
    hooked.post("/sandbox/webhook", {"secret": "the-next-secret"})

    old = receiver.wait_for(2)[1]
    hooked.pay(new_link(client))
    new = receiver.wait_for(3)[2]

    client.utility.verify_webhook_signature(old.body.decode(), old.signature, WEBHOOK_SECRET)
    client.utility.verify_webhook_signature(new.body.decode(), new.signature, "the-next-secret")


def test_without_a_secret_there_is_no_signature(hooked: SandboxProcess, client: Client, receiver: Receiver) -> None:
    hooked.post("/sandbox/webhook", {"secret": ""})
    hooked.pay(new_link(client))
    assert all("X-Razorpay-Signature" not in each.headers for each in receiver.wait_for(4))


def test_duplicates_carry_the_same_event_id(hooked: SandboxProcess, client: Client, receiver: Receiver) -> None:
    hooked.post("/sandbox/knobs", {"duplicate_copies": 2})
    hooked.pay(new_link(client))

    received = receiver.wait_for(12)

    assert set(Counter(each.event_id for each in received).values()) == {3}


def test_dropped_events_never_come_and_the_oracle_knows(
    hooked: SandboxProcess, client: Client, receiver: Receiver
) -> None:
    hooked.post("/sandbox/knobs", {"drop_events": ["payment.captured", "order.paid"]})
    known = max((delivery["seq"] for delivery in hooked.deliveries()), default=0)
    hooked.pay(new_link(client))

    received = receiver.wait_for(2)

    until(lambda: all(d["state"] != "pending" for d in hooked.deliveries(after=known)), "all deliveries settled")
    assert sorted(names(received)) == ["payment.authorized", "payment_link.paid"]
    states = {delivery["event"]: delivery["state"] for delivery in hooked.deliveries(after=known)}
    assert states == dict.fromkeys(FOUR, "delivered") | {"payment.captured": "dropped", "order.paid": "dropped"}
    assert len(receiver.received) == 2


def test_shuffled_events_all_come(hooked: SandboxProcess, client: Client, receiver: Receiver) -> None:
    hooked.post("/sandbox/knobs", {"shuffle_seconds": 0.5})
    for _ in range(4):
        hooked.pay(new_link(client))

    received = receiver.wait_for(16)

    assert Counter(names(received)) == dict.fromkeys(FOUR, 4)
    # 4 payments of 4 events in their order by accident: one in (4!)^4, and the payments interleave besides.
    assert names(received) != FOUR * 4


def test_an_unpaid_attempt_a_cancellation_and_a_refund_are_told(
    hooked: SandboxProcess, client: Client, receiver: Receiver
) -> None:
    link = new_link(client)
    hooked.pay(link, "failure@razorpay")
    client.payment_link.cancel(link["id"])
    payment = hooked.pay(new_link(client))["payment"]
    client.payment.refund(payment["id"], {})

    received = receiver.wait_for(8)

    others = ["payment.failed", "payment_link.cancelled", "refund.created", "refund.processed"]
    assert sorted(names(received)) == sorted(FOUR + others)


def test_a_kill_keeps_payments_and_the_delivery_goes_on(own_sandbox: SandboxProcess, receiver: Receiver) -> None:
    receiver.answers = [503] * 8
    client = Client(own_sandbox.url)
    link = new_link(client)
    payment = own_sandbox.pay(link)["payment"]
    refused = receiver.wait_for(1)[0]

    own_sandbox.end(signal.SIGKILL)
    receiver.answers.clear()
    own_sandbox.start()

    assert client.payment.fetch(payment["id"]) == payment
    assert client.payment_link.fetch(link["id"])["status"] == "paid"
    until(lambda: {d["state"] for d in own_sandbox.deliveries()} == {"delivered"}, "all delivered")
    taken = [each for each in receiver.received if each.answered == 200]
    assert sorted(set(names(taken))) == sorted(FOUR)
    assert (refused.event_id, refused.body) in {(each.event_id, each.body) for each in taken}
    client.session.close()


def test_a_kill_in_the_middle_of_payments_loses_none_that_was_acknowledged(
    own_sandbox: SandboxProcess, receiver: Receiver
) -> None:
    client = Client(own_sandbox.url)
    links = [new_link(client) for _ in range(200)]
    client.session.close()
    acknowledged: list[str] = []

    def pay_until_it_dies() -> None:
        with contextlib.suppress(requests.ConnectionError):
            for link in links:
                acknowledged.append(own_sandbox.pay(link)["payment"]["id"])

    customers = threading.Thread(target=pay_until_it_dies)
    customers.start()
    until(lambda: len(acknowledged) >= 20, "some payments")
    own_sandbox.end(signal.SIGKILL)
    customers.join()
    assert len(acknowledged) < len(links)
    own_sandbox.start()

    captured = {payment["id"] for payment in own_sandbox.ledger()["payments"] if payment["status"] == "captured"}
    assert captured >= set(acknowledged)
    # Whatever is in the ledger is told, all four events of it: the call that got no answer too.
    until(lambda: all(d["state"] == "delivered" for d in own_sandbox.deliveries()), "all delivered")
    told = Counter(
        (envelope["event"], envelope["payload"]["payment"]["entity"]["id"])
        for envelope in {each.event_id: document(each) for each in receiver.received}.values()
    )
    assert told == dict.fromkeys([(name, payment_id) for name in FOUR for payment_id in captured], 1)


def test_a_day_of_failure_disables_the_webhook_until_a_person_enables_it(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answers = [400] * 1000
    sandbox = SandboxProcess(tmp_path, webhook_url=receiver.url, ladder_scale="0.000001")
    client = Client(sandbox.url)
    webhook = f"{sandbox.url}/sandbox/webhook"
    try:
        sandbox.pay(new_link(client))
        until(lambda: not sandbox.http.get(webhook, timeout=5).json()["enabled"], "the webhook is disabled")
        known = len(sandbox.deliveries())
        assert {delivery["state"] for delivery in sandbox.deliveries()} == {"abandoned"}
        assert max(len(delivery["attempts"]) for delivery in sandbox.deliveries()) == 15
        sandbox.pay(new_link(client))
        assert len(sandbox.deliveries()) == known

        receiver.answers.clear()
        receiver.received.clear()
        sandbox.post("/sandbox/webhook", {"enabled": True})
        sandbox.pay(new_link(client))

        assert sorted(names(receiver.wait_for(4))) == sorted(FOUR)
    finally:
        client.session.close()
        sandbox.close()


def test_sigterm_ends_it_within_seconds_although_a_call_is_open(own_sandbox: SandboxProcess) -> None:
    own_sandbox.post("/sandbox/faults", {"kind": "slow", "path": "/v1/orders", "seconds": 60})
    caller = Client(own_sandbox.url)
    failed: list[Exception] = []

    def call() -> None:
        try:
            caller.order.all()
        except (requests.RequestException, razorpay.errors.ServerError) as error:
            failed.append(error)

    waiting = threading.Thread(target=call)
    waiting.start()
    faults = f"{own_sandbox.url}/sandbox/faults"
    until(lambda: not own_sandbox.http.get(faults, timeout=5).json()["faults"], "the slow call is open")
    started = time.monotonic()

    assert own_sandbox.end(signal.SIGTERM) == 0

    assert time.monotonic() - started < 5
    waiting.join()
    caller.session.close()
    assert len(failed) == 1
    lines = [json.loads(line) for line in own_sandbox.log.read_text().splitlines()]
    assert lines[0]["event"] == "starting"
    assert "secret" not in own_sandbox.log.read_text()
