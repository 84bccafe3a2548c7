"""Limits: never more than was agreed, a wait that is exact, whole calls only, and one key never in another's way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest import http
from services.ingest.gcra import Gcra
from services.ingest.limits import Alone, KeyLimits
from services.ingest.validate import Sender
from shared.catalogue.cache import CatalogueCache
from shared.catalogue.keys import MadeKey
from shared.contracts.messages.catalogue import (
    ApiKeyMessage,
    Limit,
    MeterMessage,
    OrganisationMessage,
    ProjectMessage,
    encode_catalogue,
)
from shared.domain.errors import Rejected
from shared.kafka.producer import ACK_DEADLINE_S
from shared.postgres.outbox import OutboxMessage
from tests.support.ingest import MANY, HttpDoor, event, settings
from tests.support.services import peppers
from tests.support.usage import NOWHERE

SECOND = 1_000_000_000

rates = st.integers(1, 100_000)
bursts = st.integers(1, 10_000)
calls = st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(1, 500)), min_size=1, max_size=60)


@given(rates, bursts, st.integers(1, 7), calls)
def test_in_no_stretch_of_time_more_than_burst_and_rate_pass(
    per_second: int, burst: int, processes: int, calls: list[tuple[int, int]]
) -> None:
    bucket = Gcra(per_second, burst, processes)
    now, passed = 10**15, list[tuple[int, int]]()
    for pause, events in calls:
        now += pause
        if events <= bucket.share and bucket.take(events, now) == 0:
            passed.append((now, events))
    for start, (began, _) in enumerate(passed):
        total = 0
        for at, events in passed[start:]:
            total += events
            assert total * processes * SECOND <= (at - began) * per_second + bucket.share * processes * SECOND


@given(rates, bursts, st.integers(1, 7), calls)
def test_the_wait_that_is_told_is_exact_to_the_nanosecond(
    per_second: int, burst: int, processes: int, calls: list[tuple[int, int]]
) -> None:
    bucket, now = Gcra(per_second, burst, processes), 10**15
    for pause, events in calls:
        now += pause // 1000
        foreseen = bucket.wait_ns(events, now)
        wait = bucket.take(events, now)
        assert wait == foreseen
        if wait:
            assert bucket.wait_ns(events, now + wait - 1) == 1
            assert bucket.wait_ns(events, now + wait) == 0


@given(rates, bursts, calls)
def test_what_remains_passes_and_one_more_does_not(per_second: int, burst: int, calls: list[tuple[int, int]]) -> None:
    bucket, now = Gcra(per_second, burst), 10**15
    for pause, events in calls:
        now += pause // 1000
        bucket.take(events, now)
        remaining, full_in = bucket.left(now)
        assert 0 <= remaining <= burst
        assert remaining == 0 or bucket.wait_ns(remaining, now) == 0
        assert remaining == burst or bucket.wait_ns(remaining + 1, now) > 0
        assert bucket.left(now + full_in) == (burst, 0)


@given(rates, st.integers(2, 1000), st.integers(2, 7))
def test_a_call_above_the_share_of_a_process_passes_when_full_and_is_paid_for(
    per_second: int, burst: int, processes: int
) -> None:
    bucket, now = Gcra(per_second, burst, processes), 10**15
    assert bucket.take(burst, now) == 0
    paid = -(-burst * processes * SECOND // per_second)
    assert bucket.left(now)[1] == paid
    # the same again waits until the bucket is full: in the long run the rate holds
    assert bucket.take(burst, now) in (paid, paid + 1)


@given(rates, bursts, st.integers(1, 500), rates, bursts)
def test_under_another_limit_as_many_events_stay_taken(
    per_second: int, burst: int, events: int, new_rate: int, new_burst: int
) -> None:
    bucket, now = Gcra(per_second, burst), 10**15
    taken = min(events, burst)
    bucket.take(taken, now)
    assert bucket.changed(new_rate, new_burst, 1, now).left(now)[0] == max(0, new_burst - taken)


@dataclass
class Limited:
    """An organisation with two keys and a third of another; the clock stands until it is moved."""

    now_ns: int = 10**15
    cache: CatalogueCache = field(default_factory=CatalogueCache)
    texts: dict[str, str] = field(default_factory=dict)
    senders: dict[str, Sender] = field(default_factory=dict)

    def organisation(self, id: str, limit: Limit | None = None, version: int = 1) -> None:
        message = OrganisationMessage(id, version, id, "INR", "Asia/Kolkata", **({"limit": limit} if limit else {}))
        self.cache.learn(encode_catalogue(message))
        self.cache.learn(encode_catalogue(ProjectMessage(f"{id}-app", 1, id, id)))

    def key(self, name: str, organisation: str, limit: Limit | None = None) -> None:
        made = MadeKey.under(peppers(), True)
        more: dict[str, Any] = {"limit": limit} if limit else {}
        message = ApiKeyMessage(
            made.id,
            1,
            organisation,
            f"{organisation}-app",
            True,
            made.secret_hash.hex(),
            made.pepper_id,
            ("events:write",),
            **more,
        )
        self.cache.learn(encode_catalogue(message))
        self.texts[name], self.senders[name] = made.text, Sender(f"{organisation}-app", True, made.id)

    def limits(self, processes: int = 1) -> KeyLimits:
        return KeyLimits(self.cache, Alone(processes), clock_ns=lambda: self.now_ns)


@pytest.fixture
def limited() -> Limited:
    made = Limited()
    made.cache.learn(encode_catalogue(MeterMessage("tokens", 1, "T", "api.request", "sum", "tokens", "token", True)))
    made.organisation("acme", Limit(100, 30))
    made.organisation("zenith")
    made.key("one", "acme", Limit(10, 20))
    made.key("two", "acme")
    made.key("free", "zenith")
    made.cache.seen_end()
    return made


def test_a_key_without_a_limit_is_never_held_up_and_gets_no_headers(limited: Limited) -> None:
    limits = limited.limits()
    for _ in range(1000):
        assert limits.take(limited.senders["free"], 1000).retry_after_s is None
    assert limits.look(limited.senders["free"]).headers() == {}


def test_a_call_that_does_not_fit_takes_nothing_and_says_when_it_will(limited: Limited) -> None:
    limits, one = limited.limits(), limited.senders["one"]
    assert limits.take(one, 15).headers() == {
        "ratelimit-limit": "20",
        "ratelimit-remaining": "5",
        "ratelimit-reset": "2",
    }
    refused = limits.take(one, 10)
    assert refused.retry_after_s == 0.5
    assert refused.headers()["ratelimit-remaining"] == "5"
    limited.now_ns += SECOND // 2 - 1
    assert limits.take(one, 10).retry_after_s == 1e-9
    limited.now_ns += 1
    assert limits.take(one, 10).retry_after_s is None


def test_keys_of_an_organisation_share_its_limit_and_a_refused_call_takes_from_neither(limited: Limited) -> None:
    limits, one, two = limited.limits(), limited.senders["one"], limited.senders["two"]
    assert limits.take(two, 25).retry_after_s is None
    assert limits.take(one, 10).retry_after_s == pytest.approx(0.05)
    assert limits.take(one, 5).retry_after_s is None  # its own bucket was not touched
    assert limits.take(one, 5).headers()["ratelimit-remaining"] == "0"
    assert limits.take(limited.senders["free"], 1000).retry_after_s is None


def test_what_the_organisation_refuses_leaves_the_keys_own_bucket_as_it_was(limited: Limited) -> None:
    limits, one, two = limited.limits(), limited.senders["one"], limited.senders["two"]
    assert limits.take(two, 30).retry_after_s is None  # the organisation's whole burst
    for _ in range(5):
        assert limits.take(one, 10).retry_after_s is not None
    own = limits._of_key[one.key_id]
    assert own.left(limited.now_ns) == (own.share, 0)


def test_a_call_larger_than_a_burst_can_never_pass_and_is_told_so(limited: Limited) -> None:
    limits = limited.limits(processes=4)
    with pytest.raises(Rejected, match="the burst of this key is 20") as refused:
        limits.take(limited.senders["one"], 21)
    assert refused.value.code == "over_burst"
    with pytest.raises(Rejected, match="the burst of this organisation is 30"):
        limits.take(limited.senders["two"], 31)
    assert limits.take(limited.senders["one"], 20).retry_after_s is None  # more than a quarter of the burst


def test_processes_share_what_a_key_may_send(limited: Limited) -> None:
    four, one = [limited.limits(4) for _ in range(4)], limited.senders["one"]

    def passed() -> int:
        return sum(limits.take(one, 1).retry_after_s is None for limits in four for _ in range(100))

    assert passed() == 20
    limited.now_ns += 4 * SECOND
    assert passed() == 20  # the rate would allow 40, the burst 20
    limited.now_ns += SECOND
    assert passed() in range(8, 13)


def test_a_new_limit_counts_at_once(limited: Limited) -> None:
    limits, two = limited.limits(), limited.senders["two"]
    assert limits.take(two, 30).retry_after_s is None
    assert limits.take(two, 10).retry_after_s == pytest.approx(0.1)
    limited.organisation("acme", Limit(1000, 300), version=2)
    assert limits.take(two, 270).retry_after_s is None
    assert limits.take(two, 1).retry_after_s is not None
    limited.organisation("acme", None, version=3)
    assert limits.take(two, 1000).retry_after_s is None


def test_a_look_takes_nothing(limited: Limited) -> None:
    limits, one = limited.limits(), limited.senders["one"]
    for _ in range(100):
        assert limits.look(one).retry_after_s is None
    limits.take(one, 20)
    assert limits.look(one).retry_after_s == pytest.approx(0.1)
    assert limits.look(one).headers()["ratelimit-remaining"] == "0"


class Taken:
    """A log that takes everything; remembers how much."""

    def __init__(self) -> None:
        self.events = 0

    async def send(
        self, messages: Sequence[OutboxMessage], deadline_s: float = ACK_DEADLINE_S
    ) -> list[tuple[int, int]]:
        self.events += len(messages)
        return [(0, 0)] * len(messages)


@asynccontextmanager
async def limited_door(limited: Limited) -> AsyncIterator[tuple[HttpDoor, Taken]]:
    taken = Taken()
    door = http.Door(settings(NOWHERE), limited.cache, taken, "ingest-test", limited.limits())
    transport = httpx2.ASGITransport(app=http.app(door))
    async with httpx2.AsyncClient(transport=transport, base_url="http://ingest") as client:
        yield HttpDoor(door, limited.texts, client), taken


async def test_over_http_a_call_passes_whole_or_not_at_all(limited: Limited) -> None:
    async with limited_door(limited) as (door, taken):
        first = await door.post([event(str(n)) for n in range(15)], key="one")
        assert (first.status_code, first.headers["ratelimit-remaining"]) == (202, "5")
        second = await door.post([event(str(n)) for n in range(15, 25)], key="one")
        assert second.status_code == 429
        assert second.json()["code"] == "rate_limited"
        assert second.headers["retry-after"] == "1"
        assert taken.events == 15
        limited.now_ns += SECOND
        again = await door.post([event(str(n)) for n in range(15, 25)], key="one")
        assert again.status_code == 202
        assert taken.events == 25


async def test_over_http_a_call_that_never_fits_is_a_mistake_of_the_caller(limited: Limited) -> None:
    async with limited_door(limited) as (door, taken):
        answer = await door.post([event(str(n)) for n in range(21)], key="one")
        assert (answer.status_code, answer.json()["code"]) == (422, "over_burst")
        assert "the burst of this key is 20" in answer.json()["detail"]
        assert "retry-after" not in answer.headers
        assert taken.events == 0


async def test_every_answer_to_a_limited_key_tells_what_is_left(limited: Limited) -> None:
    async with limited_door(limited) as (door, _):
        answers = [
            await door.post([event()], key="one"),
            await door.post(b"{", key="one"),
            await door.post(b"[]", key="one", media_type=MANY),
            await door.post(b"x", key="one", media_type="text/plain"),
            await door.post([event(time="never")], key="one"),
            await door.post([event(str(n)) for n in range(21)], key="one"),
        ]
        assert {answer.status_code for answer in answers} == {202, 400, 415, 422}
        for answer in answers:
            assert answer.headers["ratelimit-limit"] == "20", answer.text
            assert int(answer.headers["ratelimit-remaining"]) <= 20
            assert int(answer.headers["ratelimit-reset"]) >= 0
        free = await door.post([event()], key="free")
        assert not [name for name in free.headers if name.startswith("ratelimit")]


async def test_a_noisy_key_is_refused_before_its_body_is_read_and_others_pass(limited: Limited) -> None:
    async with limited_door(limited) as (door, taken):
        assert (await door.post([event(str(n)) for n in range(20)], key="one")).status_code == 202
        read = []

        async def body() -> AsyncIterator[bytes]:
            read.append(1)
            yield b"[]"

        for _ in range(50):
            noisy = await door.client.post(
                "/v1/events",
                content=body(),
                headers={"Authorization": f"Bearer {limited.texts['one']}", "Content-Type": MANY},
            )
            assert noisy.status_code == 429
        assert read == []
        before = taken.events
        assert (await door.post([event(str(n)) for n in range(1000)], key="free")).status_code == 202
        assert taken.events == before + 1000
