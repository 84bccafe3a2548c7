"""Ingest and aggregator as processes on real parts, and the question whether everything has come to rest."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from aiokafka.errors import KafkaError

from devstack.postgres import create_database, drop_database
from shared.contracts.topics import USAGE_EVENTS, USAGE_RAW
from shared.kafka import topics
from shared.postgres.migrate import migrate
from shared.runtime import failpoints
from shared.runtime.service import EXIT_DEPENDENCY
from tests.conftest import Parts, delete_topics
from tests.support.broker import ends
from tests.support.catalogue import apply_document
from tests.support.journal import Archive, Journal, all_windows, archive
from tests.support.kafka import committed
from tests.support.pods import Pod
from tests.support.waiting import eventually


@dataclass
class Plant:
    """Pods by name on one database and one set of topics; `points` is where failpoints are armed."""

    parts: Parts
    home: Path
    key: str = field(repr=False)
    pods: dict[str, Pod] = field(default_factory=dict)

    @property
    def points(self) -> Path:
        return self.home / "points"

    def pod(self, name: str, service: str = "ingest", **env: str) -> Pod:
        """A pod that is not started yet."""
        own = self.parts.env | {"KHATA_FAILPOINTS_DIR": str(self.points)} | env
        self.pods[name] = Pod(name, service, self.home, own)
        return self.pods[name]

    def spooling(self, name: str, **env: str) -> Pod:
        """An ingest with a spool of its own."""
        spool = {"SPOOL_PATH": str(self.spool(name)), "SPOOL_MIN_FREE_BYTES": "0", "INGEST_ACK_DEADLINE_S": "0.5"}
        return self.pod(name, **spool | env)

    def start(self, *pods: Pod) -> None:
        """All at once; returns when all are ready."""
        for pod in pods:
            pod.start(wait=False)
        for pod in pods:
            pod.wait_ready()

    def spool(self, name: str) -> Path:
        return self.home / f"{name}.sqlite3"

    def journal(self, subject: str, pod: Pod, **more: Any) -> Journal:
        return Journal(pod.url, self.key, subject, **more)

    async def kill_held(self, point: str) -> Pod:
        """SIGKILL the pod that is held at the armed point; returns it, not started again."""
        pid = await failpoints.held(self.points, point)
        [victim] = [pod for pod in self.pods.values() if pod.child is not None and pod.pid == pid]
        await asyncio.to_thread(victim.kill)
        return victim

    async def settled(self, *journals: Journal, deadline_s: float = 30.0) -> None:
        """Everything has gone its way, and then each journal agrees with what was counted."""

        async def open_ends() -> dict[str, Any]:
            return await self._open_ends(journals)

        await eventually(open_ends, lambda found: not found, deadline_s)
        stored, counted = await self.archive(), await asyncio.to_thread(all_windows, self.parts.database_url)
        for journal in journals:
            journal.compare(stored, counted)

    async def applied(self, deadline_s: float = 60.0) -> None:
        """Until every record that is in the log now is applied."""

        async def lag() -> dict[int, int]:
            self.start_again()
            return await self._lag()

        await eventually(lag, lambda found: not found, deadline_s)

    async def archive(self) -> Archive:
        return await asyncio.to_thread(archive, self.parts.database_url)

    async def _open_ends(self, journals: tuple[Journal, ...]) -> dict[str, Any]:
        """What is still on its way, in the order in which it moves; empty at rest."""
        self.start_again()
        if unsent := {path.stem: left for path in self.home.glob("*.sqlite3") if (left := unsent_in(path))}:
            return {"unsent in spools": unsent}
        if behind := await self._door_behind():
            return {"raw records not taken": behind}
        if lag := await self._lag():
            return {"records not applied": lag}
        stored = await self.archive()
        missing = {one.subject: len(one.answered.keys() - stored[one.subject][0].keys()) for one in journals}
        return {subject: count for subject, count in missing.items() if count}

    def start_again(self) -> None:
        """As any supervisor does with a process that ended because a dependency was away too long."""
        for pod in self.pods.values():
            if pod.child is not None and pod.child.exit_code == EXIT_DEPENDENCY:
                pod.start(wait=False)

    def offsets(self) -> dict[int, int]:
        """Where the aggregator stands, by partition."""
        with psycopg.connect(self.parts.database_url) as owner:
            rows = owner.execute(
                "SELECT partition, next_offset FROM messaging.consumer_offset WHERE consumer_group = %s AND topic = %s",
                (self.parts.kafka.names.group("aggregator"), self.parts.kafka.names.topic(USAGE_EVENTS)),
            ).fetchall()
        return dict(rows)

    async def _lag(self) -> dict[int, int]:
        applied = self.offsets()
        found = await ends(self.parts)
        return {number: end - applied.get(number, 0) for number, end in found.items() if end > applied.get(number, 0)}

    async def _door_behind(self) -> dict[int, int]:
        found = {number: end for number, end in (await ends(self.parts, USAGE_RAW)).items() if end}
        if not found:
            return {}
        taken = await committed(self.parts, self.parts.kafka.names.group("ingest", "door"))
        topic = self.parts.kafka.names.topic(USAGE_RAW)
        return {number: end for number, end in found.items() if end > taken.get((topic, number), 0)}


def unsent_in(path: Path) -> int:
    """Events that the spool has not forwarded. Only of a living process: the last to close a file copies its log."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as spool:
        [(unsent,)] = spool.execute("SELECT accepted_total - forwarded_total FROM spool").fetchall()
    return int(unsent)


@contextmanager
def plant(home: Path, bootstrap: str, owner_url: str, template: str | None = None) -> Iterator[Plant]:
    """A database and topics of its own with a catalogue; its pods are killed at the end."""
    name = f"khata_plant_{uuid.uuid4().hex[:12]}"
    parts = Parts(create_database(owner_url, name, template=template), bootstrap, f"{name.replace('_', '-')}.")
    if template is None:
        migrate(parts.database_url)
    asyncio.run(topics.apply(parts.kafka, dev=True))
    keys = asyncio.run(apply_document(parts)).secrets
    made = Plant(parts, home, keys["acme-app/first"])
    made.points.mkdir()
    try:
        yield made
    finally:
        for pod in made.pods.values():
            if pod.child is not None:
                pod.kill()
        with suppress(KafkaError):  # a broker of the test's own may be gone
            asyncio.run(delete_topics(parts))
        drop_database(owner_url, name)
