"""A log and what the aggregator made of it, for the tests of reconciliation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import psycopg

from services.aggregator.reconcile.finding import FindingClass
from services.aggregator.reconcile.record import Period
from services.aggregator.reconcile.repair import Repair, repair
from services.aggregator.reconcile.run import ReconcileSettings, Report, reconcile
from shared.contracts.messages.receipt import AckedRange, Receipt, encode_receipt, fingerprint, hash_of_value
from shared.contracts.topics import INGEST_RECEIPTS, USAGE_EVENTS
from shared.kafka.records import Batch, OffsetRange, Record
from tests.conftest import Parts
from tests.support.kafka import read_topic, send
from tests.support.usage import Counting, counting

NOW = datetime.now(UTC)
AT = NOW.replace(minute=0, second=0, microsecond=0)
PERIOD = Period(AT - timedelta(hours=3), AT + timedelta(hours=4))


@dataclass
class Proving:
    """`log` sends events and applies them; `owner` does what no application may."""

    parts: Parts
    counting: Counting
    owner: psycopg.Connection[Any]

    @property
    def topic(self) -> str:
        return self.parts.kafka.names.topic(USAGE_EVENTS)

    @property
    def settings(self) -> ReconcileSettings:
        return ReconcileSettings(
            kafka_bootstrap_servers=self.parts.bootstrap,
            kafka_topic_prefix=self.parts.prefix,
            database_url=self.parts.database.database_url,
        )

    async def log(self, *values: bytes | None, keys: int = 5) -> list[Record]:
        """Into the topic, and what is there beyond the stored positions through the aggregator."""
        await send(self.parts, self.topic, [value or b"" for value in values], keys=keys)
        stored = dict(
            await self.counting.rows("SELECT partition, next_offset FROM messaging.consumer_offset ORDER BY 1")
        )
        new = [one for one in await read_topic(self.parts, self.topic) if one.offset >= stored.get(one.partition, 0)]
        ranges = []
        for partition, group in groupby(new, key=lambda one: one.partition):
            mine = list(group)
            ranges.append(OffsetRange(self.topic, partition, mine[0].offset, mine[-1].offset + 1, mine[-1]))
        await self.counting.aggregator.apply(Batch(tuple(new), tuple(ranges)))
        return new

    async def receipt(self, records: Sequence[Record], *, claims: int = 0, sequence: int = 1) -> None:
        """What `test` would say of them; `claims`: of so many more in each partition, beyond the last."""
        ranges = []
        for partition, group in groupby(records, key=lambda one: one.partition):
            mine = list(group)
            ranges.append(
                AckedRange(
                    topic=self.topic,
                    partition=partition,
                    spool="",
                    first_offset=mine[0].offset,
                    last_offset=mine[-1].offset + claims,
                    count=len(mine) + claims,
                    fingerprint=fingerprint(sum(hash_of_value(one.value or b"") for one in mine)),
                )
            )
        said = Receipt(process="test", sequence=sequence, minute=AT, ranges=tuple(ranges), unanswered=0, last=True)
        await send(self.parts, self.parts.kafka.names.topic(INGEST_RECEIPTS), [encode_receipt(said)])

    async def reconcile(self, *, period: Period = PERIOD, full: bool = True, **more: Any) -> Report:
        return await reconcile(self.settings, self.counting.database, "manual", period, full=full, **more)

    async def found(self, *, full: bool = True) -> dict[FindingClass, list[str]]:
        """Texts of what is found, by class."""
        report = await self.reconcile(full=full)
        found: dict[FindingClass, list[str]] = {}
        for finding in report.findings.kept.values():
            found.setdefault(finding.found, []).append(finding.text)
        return found

    async def repair(self, *, dry_run: bool = False) -> list[Repair]:
        report = await self.reconcile(full=False)
        keys = [one.key for one in report.windows.differences]
        return await repair(self.settings, self.counting.database, keys, "tester", dry_run=dry_run)

    def harm(self, statement: str, *parameters: Any) -> int:
        """As the owner; how many rows. Must have done something."""
        rows = self.owner.execute(statement.encode(), parameters).rowcount
        assert rows > 0, statement
        return rows


@asynccontextmanager
async def proving(parts: Parts) -> AsyncIterator[Proving]:
    group = parts.kafka.names.group("aggregator")
    async with counting(parts.database_url, parts.kafka, group) as count:
        with psycopg.connect(parts.database_url, autocommit=True) as owner:
            yield Proving(parts, count, owner)
