"""What a call costs before its body is read: the key checked against its hash, and the limits asked."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable

from benchmarks.catalogue import PROJECT
from benchmarks.figure import Figure
from benchmarks.stack import BenchParts
from services.ingest.http.route import SCOPE
from services.ingest.limits import KeyLimits
from services.ingest.validate import Sender
from shared.catalogue.authenticate import authenticate
from shared.catalogue.cache import CatalogueCache
from shared.catalogue.keys import MadeKey
from shared.contracts.messages.catalogue import ApiKeyMessage, Limit, ProjectMessage, encode_catalogue

CALLS = 100_000
RUNS = 5
PEPPERS = {"bench": b"\x5a" * 32}
FREE = Limit(1_000_000_000, 1_000_000_000)


def measure(_parts: BenchParts, _key: str) -> list[Figure]:
    cache, text = _catalogue()
    limits = KeyLimits(cache)
    header = f"Bearer {text}"

    async def check() -> None:
        for _ in range(CALLS):
            key = await authenticate(header, cache, PEPPERS, SCOPE)
            sender = Sender(key.project_id, key.live, key.id)
            limits.look(sender)
            limits.take(sender, 1)

    def hash_alone() -> None:
        for _ in range(CALLS):
            hmac.digest(PEPPERS["bench"], text.encode(), "sha256")

    runs = [_us(lambda: asyncio.run(check())) for _ in range(RUNS)]
    alone = [_us(hash_alone) for _ in range(RUNS)]
    return [
        Figure(
            "key check and limiter",
            runs,
            "µs a call",
            5,
            less_is_better=True,
            limit="one HMAC-SHA256",
            limit_runs=alone,
        )
    ]


def _us(work: Callable[[], None]) -> float:
    """Processor time: others on the machine do not count."""
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1e6 / CALLS


def _catalogue() -> tuple[CatalogueCache, str]:
    cache, made = CatalogueCache(), MadeKey.under(PEPPERS, live=True)
    cache.learn(encode_catalogue(ProjectMessage(PROJECT, 1, "bench", "Bench")))
    cache.learn(
        encode_catalogue(
            ApiKeyMessage(
                id=made.id,
                version=1,
                organisation_id="bench",
                project_id=PROJECT,
                secret_hash=made.secret_hash.hex(),
                live=True,
                pepper_id=made.pepper_id,
                scopes=(SCOPE,),
                limit=FREE,
            )
        )
    )
    cache.seen_end()
    return cache, made.text
