"""What time does to links, with a clock in the test's hand and no server: the application is called directly."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr

from services.payments.sandbox.app import build
from services.payments.sandbox.settings import Settings


@dataclass
class Hand:
    """A clock that moves when told."""

    at: float = 1_764_000_000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
async def http(tmp_path: Path, clock: Hand) -> AsyncIterator[httpx2.AsyncClient]:
    settings = Settings(data=tmp_path / "s.sqlite3", key_secret=SecretStr("s"), webhook_url="http://127.0.0.1:9/")
    app = build(settings, clock)
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://sandbox", auth=(settings.key_id, "s")
    ) as client:
        yield client
    app.state.account.store.close()


async def new_link(http: httpx2.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await http.post("/v1/payment_links", json={"amount": 10_000, "currency": "INR", **fields})
    assert answer.status_code == 200, answer.text
    link: dict[str, Any] = answer.json()
    return link


async def test_a_link_expires_at_its_time_and_takes_no_money_after(http: httpx2.AsyncClient, clock: Hand) -> None:
    link = await new_link(http, expire_by=int(clock.at) + 900)
    clock.at += 899
    assert (await http.get(f"/v1/payment_links/{link['id']}")).json()["status"] == "created"
    clock.at += 1

    refused = await http.post(f"/l/{link['id']}/pay", json={"vpa": "success@razorpay"})

    assert (refused.status_code, refused.json()["error"]["description"]) == (400, "Payment Link is expired")
    expired = (await http.get(f"/v1/payment_links/{link['id']}")).json()
    assert (expired["status"], expired["expired_at"]) == ("expired", int(clock.at))
    assert "has expired" in (await http.get(f"/l/{link['id']}")).text
    events = [delivery["event"] for delivery in (await http.get("/sandbox/deliveries")).json()["deliveries"]]
    assert events == ["payment_link.expired"]


async def test_a_link_without_a_date_expires_after_six_months(http: httpx2.AsyncClient, clock: Hand) -> None:
    link = await new_link(http)
    clock.at += 184 * 86_400
    assert (await http.get(f"/v1/payment_links/{link['id']}")).json()["status"] == "expired"


async def test_lists_can_be_cut_by_time(http: httpx2.AsyncClient, clock: Hand) -> None:
    made = []
    for _ in range(3):
        made.append((await http.post("/v1/orders", json={"amount": 100, "currency": "INR"})).json()["id"])
        clock.at += 60

    answer = await http.get("/v1/orders", params={"from": int(clock.at) - 120, "to": int(clock.at) - 60})

    assert [order["id"] for order in answer.json()["items"]] == [made[2], made[1]]


async def test_a_preview_of_the_page_does_not_open_the_link(http: httpx2.AsyncClient) -> None:
    link = await new_link(http)
    await http.head(f"/l/{link['id']}")
    assert "order_id" not in (await http.get(f"/v1/payment_links/{link['id']}")).json()
    await http.get(f"/l/{link['id']}")
    assert "order_id" in (await http.get(f"/v1/payment_links/{link['id']}")).json()


@pytest.mark.parametrize("body", [b"{", b"[1]", b'"text"', b"\xff", b"[" * 100_000])
async def test_a_body_that_is_no_object_is_refused(http: httpx2.AsyncClient, body: bytes) -> None:
    answer = await http.post("/v1/orders", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "BAD_REQUEST_ERROR"


async def test_a_form_is_taken_like_json(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/v1/orders", data={"amount": "500", "currency": "INR"})
    assert (answer.status_code, answer.json()["amount"]) == (200, 500)
