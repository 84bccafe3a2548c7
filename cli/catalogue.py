"""`khata catalogue apply FILE`: organisations, projects, meters, keys; prices go to the invoicer."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import typer
import yaml

from services.invoicer.price_file import apply_prices
from shared.audit.append import operator
from shared.catalogue.apply import Applied, Change, apply_catalogue
from shared.catalogue.backfill import Events
from shared.catalogue.file import CatalogueFile, read_catalogue
from shared.catalogue.keys import PepperSettings
from shared.contracts.topics import CATALOGUE, USAGE_EVENTS
from shared.domain.errors import BrokerAway, DatabaseAway, Usage
from shared.kafka import topics
from shared.kafka.producer import Producer
from shared.postgres import outbox
from shared.postgres.migrate import require_current
from shared.postgres.pool import Database, direct_connection
from shared.runtime.output import Output, OutputOption, show, stderr, wait_for
from shared.runtime.settings import DatabaseSettings, KafkaSettings, ProcessSettings, load

app = typer.Typer(help="Organisations, projects, meters, keys and prices.", no_args_is_help=True)

DRAIN_S = 20.0
ATTEMPTS = 5


class CatalogueSettings(ProcessSettings, KafkaSettings, DatabaseSettings, PepperSettings):
    """What the command needs."""


class _DryRun(Exception):
    """Rolls the transaction back after everything was tried."""

    def __init__(self, applied: Applied) -> None:
        super().__init__()
        self.applied = applied


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an apply did: changes in order, and the text of each new key by `project/name`."""

    changes: Sequence[Change]
    secrets: dict[str, str] = field(repr=False)
    fed: bool = True  # whether catalogue.v1 has it; otherwise the next apply feeds it


@app.callback()
def group() -> None:
    """Organisations, projects, meters, keys and prices."""


@app.command("apply")
def apply(
    file: Path = typer.Argument(help="YAML file; see examples/catalogue.yaml"),
    dry_run: bool = typer.Option(False, "--dry-run", help="check and say what would change, change nothing"),
    keys_out: Path | None = typer.Option(
        None, "--keys-out", help="write new keys here (mode 0600) instead of showing them"
    ),
    output: Output = OutputOption,
) -> None:
    """Make the catalogue as the file says. Applying it twice changes nothing; a new key is shown once, now."""
    if keys_out is not None and keys_out.exists():
        raise Usage(f"{keys_out} exists: name a new file, keys are never overwritten")

    def keep(secrets: dict[str, str]) -> None:
        if keys_out is not None and secrets:
            _write_private(keys_out, secrets)
            stderr.print(f"{len(secrets)} new key(s) written to {keys_out}")

    outcome = wait_for(apply_file(load(CatalogueSettings), read_catalogue(file), dry_run=dry_run, keep=keep))
    rows = [asdict(change) for change in outcome.changes]
    if keys_out is None and outcome.secrets:
        for row in rows:
            row["key (shown once)"] = outcome.secrets.get(row["id"], "") if row["kind"] == "key" else ""
    show(rows, output, title="dry run: nothing was changed" if dry_run else None)
    if not outcome.fed:
        raise BrokerAway(
            f"the catalogue is stored (keys included), but Kafka could not be fed within {DRAIN_S:g} s: "
            "run the same command again"
        )


async def apply_file(
    settings: CatalogueSettings,
    file: CatalogueFile,
    *,
    dry_run: bool = False,
    keep: Callable[[dict[str, str]], None] = lambda _: None,
) -> Outcome:
    """One transaction for all of it, then its outbox rows are drained. Raises Usage, DatabaseAway.

    `keep` is given the new keys as soon as they are stored: they exist nowhere else, whatever fails after that.
    """
    database = Database(settings, "khata_catalogue", "catalogue")
    await database.open()
    topic = settings.names.topic(CATALOGUE)
    secrets: dict[str, str] = {}
    try:
        async with database.connection() as connection:
            await require_current(connection)
        if own := [project.id for project in file.projects if project.raw_topic]:
            # First, so that ingest never hears of a topic that is not there; and only for a file that holds.
            await _apply_once(settings, database, file, topic, {}, dry_run=True)
            await topics.apply(settings, dev=settings.dev, dry_run=dry_run, projects=own)
        for attempt in range(1, ATTEMPTS + 1):
            applied, prices = Applied(), list[Change]()
            try:
                applied, prices = await _apply_once(settings, database, file, topic, secrets, dry_run=dry_run)
                break
            except DatabaseAway:  # a long batch holds the epoch lock, or the answer to COMMIT was lost: try again
                if attempt == ATTEMPTS:
                    raise
                await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311
        if dry_run:
            return Outcome([*applied.changes, *prices], {})
        keep(secrets)
        try:
            await drain(settings, database, topic)
        except BrokerAway:
            return Outcome([*applied.changes, *prices], secrets, fed=False)
        return Outcome([*applied.changes, *prices], secrets)
    finally:
        await database.close()


async def _apply_once(
    settings: CatalogueSettings,
    database: Database,
    file: CatalogueFile,
    topic: str,
    secrets: dict[str, str],
    *,
    dry_run: bool,
) -> tuple[Applied, list[Change]]:
    applied, prices = Applied(), list[Change]()

    async def write_prices() -> None:
        await connection.execute("SET LOCAL ROLE khata_invoicer")
        prices.extend(await apply_prices(connection, file.seller, file.prices, operator()))
        await connection.execute("SET LOCAL ROLE khata_catalogue")

    try:
        async with database.transaction() as connection:
            events = Events(settings.names.topic(USAGE_EVENTS), settings.names.group("aggregator"))
            applied = await apply_catalogue(connection, file, topic, settings.peppers, operator(), write_prices, events)
            secrets.update(applied.secrets)  # before COMMIT: its answer may be lost though it happened
            if dry_run:
                raise _DryRun(applied)
    except _DryRun as done:
        applied = done.applied
    return applied, prices


async def drain(settings: CatalogueSettings, database: Database, topic: str) -> None:
    """Publish every pending row of the topic, or wait for the leader that does. Raises BrokerAway."""
    producer = Producer(settings, "catalogue")
    leader = await direct_connection(settings, "khata_catalogue", "catalogue-relay")
    try:
        async with asyncio.timeout(DRAIN_S):
            while await _pending(database, topic):
                if not await outbox.leadership(leader, topic):
                    await asyncio.sleep(0.1)  # another apply drains right now
                    continue
                await outbox.relay_once(database, topic, producer.publish)
    except TimeoutError:
        raise BrokerAway(f"{topic} could not be fed within {DRAIN_S:g} s") from None
    finally:
        await leader.close()
        await producer.stop()


async def _pending(database: Database, topic: str) -> bool:
    async with database.connection() as connection:
        row = await (
            await connection.execute(
                "SELECT EXISTS (SELECT FROM messaging.outbox WHERE topic = %s AND published_at IS NULL)", (topic,)
            )
        ).fetchone()
    return bool(row and row[0])


def _write_private(path: Path, secrets: dict[str, str]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        yaml.safe_dump({"keys": secrets}, file)
