"""Trouble on demand, as the SDK and its callers meet it."""

from __future__ import annotations

import threading
import time
from uuid import uuid4

import pytest
import razorpay.errors
import requests

from tests.integration.payments.sandbox.conftest import KEY_ID, KEY_SECRET, Client, SandboxProcess, until
from tests.integration.payments.sandbox.test_api import new_link


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("429", razorpay.errors.BadRequestError),
        ("500", razorpay.errors.ServerError),
        ("502_html", requests.exceptions.JSONDecodeError),
        ("empty", requests.exceptions.JSONDecodeError),
        ("message", razorpay.errors.ServerError),
    ],
)
def test_a_bad_answer_comes_as_often_as_asked_and_changes_nothing(
    sandbox: SandboxProcess, client: Client, kind: str, error: type[Exception]
) -> None:
    receipt = uuid4().hex
    order = {"amount": 100, "currency": "INR", "receipt": receipt}
    sandbox.post("/sandbox/faults", {"kind": kind, "path": "/v1/orders", "method": "POST", "times": 2})

    for _ in range(2):
        assert client.order.all({"receipt": receipt})["count"] == 0
        with pytest.raises(error):
            client.order.create(order)

    assert client.order.create(order)["receipt"] == receipt


def test_commit_then_drop_acts_and_never_answers(sandbox: SandboxProcess, client: Client) -> None:
    sandbox.post("/sandbox/faults", {"kind": "commit_then_drop", "path": "/v1/payment_links"})
    reference_id = uuid4().hex

    with pytest.raises(requests.ConnectionError):
        new_link(client, reference_id=reference_id)

    found = client.payment_link.all({"reference_id": reference_id})["payment_links"]
    assert [link["status"] for link in found] == ["created"]
    assert "Traceback" not in sandbox.log.read_text()


def test_a_slow_call_outlasts_the_callers_patience_and_acts_all_the_same(
    sandbox: SandboxProcess, client: Client
) -> None:
    sandbox.post("/sandbox/faults", {"kind": "slow", "path": "/v1/payment_links", "seconds": 0.6})
    reference_id = uuid4().hex
    started = time.monotonic()

    with pytest.raises(requests.exceptions.ReadTimeout):
        client.payment_link.create({"amount": 100, "currency": "INR", "reference_id": reference_id}, timeout=(1, 0.05))

    assert time.monotonic() - started < 0.6
    until(lambda: client.payment_link.all({"reference_id": reference_id})["payment_links"], "the slow link exists")


def test_a_refund_key_in_flight_is_refused(sandbox: SandboxProcess, client: Client) -> None:
    payment_id = sandbox.pay(new_link(client))["payment"]["id"]
    sandbox.post("/sandbox/faults", {"kind": "slow", "path": f"/v1/payments/{payment_id}", "seconds": 0.6})
    headers = {"X-Refund-Idempotency": uuid4().hex}
    url = f"{sandbox.url}/v1/payments/{payment_id}/refund"
    answers: list[requests.Response] = []

    def refund() -> None:
        with requests.Session() as session:
            session.trust_env = False
            answers.append(session.post(url, json={}, auth=(KEY_ID, KEY_SECRET), headers=headers, timeout=5))

    slow = threading.Thread(target=refund)
    slow.start()
    until(lambda: not sandbox.http.get(f"{sandbox.url}/sandbox/faults", timeout=5).json()["faults"], "fault taken")
    refund()
    slow.join()

    assert [answer.status_code for answer in answers] == [409, 200]
    assert "still in progress" in answers[0].json()["error"]["description"]


def test_a_wrong_lever_is_named_and_nothing_is_armed(sandbox: SandboxProcess) -> None:
    answer = sandbox.http.post(f"{sandbox.url}/sandbox/faults", json={"kind": "meteor"}, timeout=5)
    assert answer.status_code == 400
    assert answer.json()["problems"][0]["field"] == ["kind"]
    assert sandbox.http.get(f"{sandbox.url}/sandbox/faults", timeout=5).json() == {"faults": []}
