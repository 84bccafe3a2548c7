"""Who is let in, and what is told when a pepper is missing or the catalogue is old."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import structlog
from prometheus_client import REGISTRY

from shared.catalogue import keys
from shared.catalogue.authenticate import authenticate
from shared.catalogue.cache import CatalogueCache
from shared.catalogue.keys import MadeKey
from shared.contracts.messages.catalogue import ApiKeyMessage, encode_catalogue
from shared.domain.errors import BrokerAway, Rejected
from tests.support.ingest import MANY, http_door
from tests.support.services import peppers
from tests.support.usage import NOWHERE

PEPPERS = {**peppers(), "p1": b"1" * 32}  # the first is the door's


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _cache(made: MadeKey, clock: Clock) -> CatalogueCache:
    cache = CatalogueCache(max_stale_s=3600, clock=clock)
    cache.learn(
        encode_catalogue(
            ApiKeyMessage(
                made.id, 1, "acme", "acme-app", True, made.secret_hash.hex(), made.pepper_id, ("events:write",)
            )
        )
    )
    cache.seen_end()
    return cache


def _missing(pepper: str) -> float:
    return REGISTRY.get_sample_value("khata_key_pepper_unknown_total", {"pepper": pepper}) or 0


async def test_keys_under_an_older_pepper_work_beside_those_under_the_first() -> None:
    for order in (PEPPERS, dict(reversed(PEPPERS.items()))):
        made = MadeKey.under(order, True)
        assert made.pepper_id == next(iter(order))
        key = await authenticate(f"Bearer {made.text}", _cache(made, Clock()), PEPPERS, "events:write")
        assert (key.project_id, key.live, key.id) == ("acme-app", True, made.id)


async def test_a_missing_pepper_is_told_by_its_id_and_the_key_never() -> None:
    made = MadeKey.under({"lost7": b"7" * 32}, True)
    before = _missing("lost7")
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(Rejected) as refused:
                await authenticate(f"Bearer {made.text}", _cache(made, Clock()), PEPPERS, "events:write")
            assert refused.value.code == "unauthenticated"
    told = [line for line in logs if line["event"] == "key.pepper_unknown"]
    assert [line["pepper"] for line in told] == ["lost7"]  # once a minute is enough
    assert made.text not in str(logs)
    assert _missing("lost7") == before + 3


async def test_with_kafka_away_known_keys_pass_and_an_unknown_one_may_be_new() -> None:
    clock, made = Clock(), MadeKey.under(PEPPERS, True)
    cache = _cache(made, clock)
    unknown = MadeKey.under(PEPPERS, True)
    with pytest.raises(Rejected):
        await authenticate(f"Bearer {unknown.text}", cache, PEPPERS, "events:write")
    clock.now += 60
    assert (await authenticate(f"Bearer {made.text}", cache, PEPPERS, "events:write")).id == made.id
    with pytest.raises(BrokerAway, match="it may be new"):
        await authenticate(f"Bearer {unknown.text}", cache, PEPPERS, "events:write")
    clock.now += 3600
    with pytest.raises(BrokerAway, match="INGEST_MAX_STALE_S"):
        await authenticate(f"Bearer {made.text}", cache, PEPPERS, "events:write")


async def test_a_revoked_key_is_over_whatever_the_clocks_say() -> None:
    made = MadeKey.under(PEPPERS, True)
    cache = _cache(made, Clock())
    ahead = datetime.now(UTC) + timedelta(minutes=10)  # by a database whose clock is ahead of ours
    cache.learn(
        encode_catalogue(
            ApiKeyMessage(
                made.id,
                2,
                "acme",
                "acme-app",
                True,
                made.secret_hash.hex(),
                made.pepper_id,
                ("events:write",),
                revoked_at=ahead,
            )
        )
    )
    with pytest.raises(Rejected, match="no longer valid"):
        await authenticate(f"Bearer {made.text}", cache, PEPPERS, "events:write")


async def test_over_http_too_old_a_catalogue_lets_nobody_in_and_says_try_again() -> None:
    clock, made = Clock(), MadeKey.under(PEPPERS, True)
    async with http_door(NOWHERE, _cache(made, clock), {"one": made.text}) as door:
        clock.now = 3600
        assert (
            await door.post(b"[", media_type=MANY, key="one")
        ).status_code != 503  # still let in (and then refused for its body)
        clock.now = 3601
        answer = await door.post(b"[", media_type=MANY, key="one")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1


async def test_a_live_key_that_calls_itself_a_test_key_is_none() -> None:
    made = MadeKey.under(PEPPERS, True)
    body = "kh_test_" + made.text.removeprefix("kh_live_")[: -keys._CHECK_LENGTH]
    disguised = body + keys._checksum(body)
    assert keys.parse(disguised).live is False
    with pytest.raises(Rejected) as refused:
        await authenticate(f"Bearer {disguised}", _cache(made, Clock()), PEPPERS, "events:write")
    assert refused.value.code == "unauthenticated"
