"""One run of the demo: events through both doors, the month closed, the bills paid, the proof.

    1  parties: two organisations made anew, keys, meters, prices (`khata catalogue apply`)
    2  send: good events with duplicates, conflicts and bad ones; each repeated until it is answered
    3  close the month (`khata invoices close`)
    4  customers pay the payment links
    5  prove
With `kill`, processes are ended at named lines meanwhile; the supervisor starts them again.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cli.demo import customers
from cli.demo.journal import Journal
from cli.demo.killing import CLOSE_POINT, WHILE_CLOSING, WHILE_COLLECTING, WHILE_SENDING, Killer
from cli.demo.parties import Parties, make_parties
from cli.demo.plan import Party, Send, plan, waves
from cli.demo.producers import Producers
from cli.demo.proof import ZONE, Proof, Sources, prove
from cli.stack.running import Running
from services.ingest.client import IngestClient
from services.ingest.importing.mapping import read_mapping
from services.ingest.importing.rows import Events, rows
from shared.contracts.topics import USAGE_RAW
from shared.domain.errors import Fatal, Usage
from shared.domain.period import Month, time_zone
from shared.kafka.producer import Producer
from shared.postgres.pool import Database, Role
from shared.runtime import failpoints
from shared.runtime.settings import DatabaseSettings, KafkaSettings, load

KILL_BATCH = 20  # small, so that every kill finds a batch of its own in flight

Report = Callable[[str], None]
Progress = Callable[[str, int, int], None]
"""Told (what, done, of)."""


@dataclass(frozen=True, slots=True)
class Input:
    """A real file that is billed to the organisation in the other state."""

    file: Path
    mapping: Path
    prices: Path


@dataclass(frozen=True, slots=True)
class Options:
    events: int = 20_000
    seed: int = 1
    kill: bool = False
    input: Input | None = None


@dataclass
class Run:
    """What one run works with."""

    id: str
    month: Month
    options: Options
    running: Running
    journal: Journal
    parties: Parties
    producers: Producers
    reader: Database
    killer: Killer
    report: Report


def folder(home: Path) -> Path:
    """Where the journals of all runs are."""
    return home / "demo"


async def run_demo(options: Options, running: Running, report: Report, progress: Progress) -> Proof:
    """Raises Fatal, Usage, DatabaseAway, BrokerAway; a proof that does not hold is returned, not raised."""
    began = time.monotonic()
    os.environ.update(running.plan.environment())
    id = uuid.uuid4().hex[:8]
    month = Month.of(datetime.now(UTC), time_zone(ZONE)).previous()
    place = folder(running.plan.home) / id
    place.mkdir(parents=True)
    parties = await make_parties(id, options.input.prices if options.input else None)
    report(f"run {id}: {month}, {parties.same_state} and {parties.other_state}")
    async with AsyncExitStack() as stack:
        run = await _open(stack, options, running, id, month, place, parties, report, progress)
        run.journal.about(
            month=month,
            seed=options.seed,
            organisations=",".join(parties.organisations),
            projects=f"{parties.same_state_project},{parties.other_state_project}",
        )
        await _send(run)
        await _close(run)
        await _collect(run)
        run.journal.about(kills=len(run.killer.killed), seconds=round(time.monotonic() - began, 1))
        invoicer = await _database(stack, "khata_invoicer")
        return await prove(run.journal, id, Sources(load(KafkaSettings), run.reader, invoicer))


async def prove_again(home: Path, id: str) -> Proof:
    """The proof of an earlier run. Raises Usage for a run that this home does not know."""
    path = folder(home) / id / "journal.sqlite3"
    if not path.exists():
        known = ", ".join(sorted(p.name for p in folder(home).glob("*"))) or "none"
        raise Usage(f"{home} has no run {id}; it has: {known}")
    async with AsyncExitStack() as stack:
        journal = Journal(path)
        stack.callback(journal.close)
        sources = Sources(
            load(KafkaSettings), await _database(stack, "khata_reader"), await _database(stack, "khata_invoicer")
        )
        return await prove(journal, id, sources)


async def _open(
    stack: AsyncExitStack,
    options: Options,
    running: Running,
    id: str,
    month: Month,
    place: Path,
    parties: Parties,
    report: Report,
    progress: Progress,
) -> Run:
    journal = Journal(place / "journal.sqlite3")
    stack.callback(journal.close)
    kafka = load(KafkaSettings)
    producer = Producer(kafka, f"demo-{id}")
    await producer.start()
    stack.push_async_callback(producer.stop)
    clients = {
        project: await stack.enter_async_context(IngestClient(running.plan.ingest_url, key))
        for project, key in parties.keys.items()
    }
    answered = 0

    def told(count: int) -> None:
        nonlocal answered
        answered += count
        progress("events", answered, 0)

    producers = Producers(journal, clients, producer, kafka.names.topic(USAGE_RAW), told)
    reader = await _database(stack, "khata_reader")
    return Run(id, month, options, running, journal, parties, producers, reader, Killer(running), report)


async def _database(stack: AsyncExitStack, role: Role) -> Database:
    database = Database(load(DatabaseSettings), role, "demo")
    await database.open()
    stack.push_async_callback(database.close)
    return database


async def _send(run: Run) -> None:
    """Step 2."""
    start, end = run.month.bounds(time_zone(ZONE))
    parties = [Party(run.parties.same_state_project, start, end)]
    if run.options.input is None:
        parties.append(Party(run.parties.other_state_project, start, end))
    sends = plan(parties, run.options.events, run.options.seed)
    run.report(f"sending {len(sends)} events over HTTP and Kafka")
    for number, wave in enumerate(waves(sends)):
        if number == 0 and run.options.kill:
            wave = await _kill_while_sending(run, wave)
        await run.producers.send_all(wave)
    if run.options.input is not None:
        run.report(f"sending {run.options.input.file.name}")
        for chunk in _chunks(_file_sends(run, run.options.input), 2_000):
            await run.producers.send_all(chunk)


def _file_sends(run: Run, given: Input) -> Iterable[Send]:
    """The rows of a real file as sends of the organisation in the other state. Raises Usage."""
    mapping = read_mapping(given.mapping)
    events = Events(mapping, mapping.source or given.file.name, run.month)
    try:
        with given.file.open(encoding="utf-8-sig", newline="") as lines:
            for row in rows(lines, mapping):
                body = events.event(row)
                event = json.loads(body)
                yield Send(
                    "http",
                    run.parties.other_state_project,
                    body,
                    0,
                    event["source"],
                    event["id"],
                    event["type"],
                    event["subject"],
                    json.dumps(event["data"]),
                )
    except OSError as error:
        raise Usage(f"{given.file}: {error.strerror}") from None


def _chunks(sends: Iterable[Send], size: int) -> Iterable[list[Send]]:
    chunk: list[Send] = []
    for send in sends:
        chunk.append(send)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


async def _kill_while_sending(run: Run, wave: Sequence[Send]) -> list[Send]:
    """Send one small batch for each kill, and kill while it is open; returns what is left to send."""
    left = list(wave)
    kills = list(WHILE_SENDING)
    random.Random(run.options.seed).shuffle(kills)  # noqa: S311 - repeatable on purpose
    for service, point, door in kills:
        fitting = [n for n, s in enumerate(left) if s.door == door and s.project == run.parties.same_state_project]
        chosen = set(fitting[:KILL_BATCH])  # by place: a duplicate equals its original
        batch = [send for number, send in enumerate(left) if number in chosen]
        left = [send for number, send in enumerate(left) if number not in chosen]
        run.report(f"kill -9 {service} at {point}")
        await run.killer.kill_during(service, point, run.producers.send_batch(batch))
    return left


async def _close(run: Run) -> None:
    """Step 3, in a process of its own, as an operator would."""
    run.report(f"closing {run.month}")
    if not run.options.kill:
        await _run_close(run)
        return
    points = run.running.plan.failpoints
    failpoints.arm(points, CLOSE_POINT)
    process = await _start_close(run)
    run.report(f"kill -9 the close at {CLOSE_POINT}")
    run.killer.end("close", CLOSE_POINT, await failpoints.held(points, CLOSE_POINT, 60.0))
    await process.communicate()
    kills = []
    for service, point in WHILE_CLOSING:
        run.report(f"kill -9 {service} at {point}")
        kills.append(run.killer.kill(service, point, await run.killer.arm(service, point)))
    await asyncio.gather(_run_close(run), *kills)


async def _start_close(run: Run) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "cli", "invoices", "close", "--month", str(run.month), "--output", "json"]
    for organisation in run.parties.organisations:
        command += ["--organisation", organisation]
    return await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


async def _run_close(run: Run) -> None:
    process = await _start_close(run)
    _, errors = await process.communicate()
    if process.returncode != 0:
        raise Fatal(f"khata invoices close ended with {process.returncode}:\n{errors.decode()[-2000:]}")


async def _collect(run: Run) -> None:
    """Step 4."""
    run.report("customers pay")
    bills = await customers.bills(run.reader, run.parties.organisations, run.month.year, run.month.month)
    kills = list(WHILE_COLLECTING) if run.options.kill else []
    for bill in bills:
        url = await customers.link_of(run.reader, bill)
        if kills:
            service, point = kills.pop(0)
            run.report(f"kill -9 {service} at {point}")
            await run.killer.kill_during(service, point, customers.pay(url))
        else:
            await customers.pay(url)
    for bill in bills:
        await customers.wait_paid(run.reader, bill)
