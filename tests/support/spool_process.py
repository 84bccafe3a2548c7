"""A process with a spool, for tests that kill it: `python -m tests.support.spool_process <what> <file> ...`.

append <file> <size> <calls>   append 10 events a call; each accepted call prints the events accepted so far
limited <file> <bytes>         the same under RLIMIT_FSIZE until the spool refuses; prints what it accepted
forward <file>                 forward to Kafka (environment) until nothing is left
purge <file>                   purge as if everything was consumed long ago
"""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from shared.kafka.producer import Producer
from shared.runtime.settings import KafkaSettings, load
from shared.spool.errors import SpoolFull
from shared.spool.forward import Forwarder
from shared.spool.purge import purge_once
from shared.spool.settings import SpoolSettings
from shared.spool.store import Spool
from tests.support.spool import TOPIC, messages


async def append(spool: Spool, size: str, calls: str) -> None:
    begin = spool._file.totals.accepted_total
    for accepted in range(begin, begin + 10 * int(calls), 10):
        await spool.append(messages(accepted, 10, size=int(size)))
        print(accepted + 10, flush=True)


async def limited(spool: Spool, most: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
    accepted = 0
    try:
        while accepted < 100_000:
            await spool.append(messages(accepted, 10, size=5_000))
            accepted += 10
    except SpoolFull:
        print(accepted, flush=True)


async def forward(spool: Spool) -> None:
    producer = Producer(load(KafkaSettings), "test")
    stop = asyncio.Event()
    stop.set()
    await Forwarder(spool, producer.send).run(stop)
    await producer.stop()


async def purge(spool: Spool) -> None:
    async def positions() -> Mapping[tuple[str, int], int]:
        return {(TOPIC, 0): 10**9, (TOPIC, 1): 10**9}

    await purge_once(spool, positions, datetime.now(UTC) + timedelta(days=8))


async def main(what: str, path: str, *arguments: str) -> None:
    spool = await Spool.open(SpoolSettings(spool_path=Path(path), spool_min_free_bytes=0), "test")
    await {"append": append, "limited": limited, "forward": forward, "purge": purge}[what](spool, *arguments)
    await spool.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
