"""`khata spools`: what every spool says of itself, and what to do with one whose process is gone."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import typer

from services.invoicer.waivers import waive as waive_spool
from shared.audit.append import operator
from shared.domain.errors import BrokerAway, Usage
from shared.kafka.producer import Producer
from shared.postgres.current import current_database
from shared.runtime.output import Output, OutputOption, show, stderr, wait_for
from shared.runtime.settings import DatabaseSettings, KafkaSettings, load
from shared.spool.forward import Forwarder
from shared.spool.known import known_spools
from shared.spool.registry import Publisher
from shared.spool.registry import retire as retire_spool
from shared.spool.settings import SpoolSettings
from shared.spool.store import Spool

app = typer.Typer(help="Spools: what was accepted while Kafka was away.", no_args_is_help=True)

PathArgument = typer.Argument(help="the spool's file; its process must have ended")


class WaiveSettings(KafkaSettings, DatabaseSettings):
    """What `waive` needs."""


@app.command("list")
def list_spools(output: Output = OutputOption) -> None:
    """Every spool that was ever announced, and how far it is."""
    states = wait_for(known_spools(load(KafkaSettings)))
    now = datetime.now(UTC)
    show(
        [
            {
                "spool": state.spool_id,
                "instance": state.instance,
                "unsent": state.unsent_events,
                "set_aside": state.set_aside_events,
                "lost": state.lost_total,
                "accepted": state.accepted_total,
                "oldest_unsent_at": state.oldest_unsent_at,
                "said_s_ago": round((now - state.as_of).total_seconds()),
                "retired": state.retired,
            }
            for state in sorted(states.values(), key=lambda state: (state.retired, state.instance, state.spool_id))
        ],
        output,
    )


@app.command("drain")
def drain(
    path: Path = PathArgument,
    wait: float = typer.Option(300.0, min=1.0, help="seconds to go on trying while Kafka is away"),
    output: Output = OutputOption,
) -> None:
    """Forward everything a spool still holds, from the disk of a process that is gone."""
    wait_for(_drain(path, wait, output, retire=False))


@app.command("retire")
def retire(
    path: Path = PathArgument,
    wait: float = typer.Option(300.0, min=1.0, help="seconds to go on trying while Kafka is away"),
    output: Output = OutputOption,
) -> None:
    """Drain a spool and announce that it never accepts again, so that closing a month no longer asks for it."""
    wait_for(_drain(path, wait, output, retire=True))


@app.command("waive")
def waive(
    spool: str = typer.Argument(help="id of the spool, as `khata spools list` shows it"),
    reason: str = typer.Option(..., help="why nobody can ask it; kept in the audit"),
) -> None:
    """Let closes go on without a spool that is silent. What it still holds becomes adjustments when it arrives."""
    wait_for(_waive(load(WaiveSettings), spool, reason))
    stderr.print(f"closes no longer wait for what {spool} accepted before now")


async def _drain(path: Path, wait: float, output: Output, *, retire: bool) -> None:
    if not await asyncio.to_thread(path.is_file):
        raise Usage(f"{path}: there is no such spool")
    kafka = load(KafkaSettings)
    producer = Producer(kafka, "spool-drain")
    spool = await Spool.open(load(SpoolSettings, spool_path=path), "khata spools")
    try:
        stop = asyncio.Event()
        stop.set()  # nothing more comes in: run is only its drain
        await Forwarder(spool, producer.send).run(stop, wait)
        state = await spool.state()
        if state.unsent_events:
            raise BrokerAway(
                f"{state.unsent_events} events are still in {path} ({state.set_aside_events} of them refused "
                "by Kafka): run the same command again once Kafka answers"
            )
        if retire:
            await retire_spool(spool, producer.send, kafka.names)
        else:
            await Publisher(spool, producer.send, kafka.names).publish()
        show([{"spool": spool.id, "forwarded": state.forwarded_total, "unsent": 0, "retired": retire}], output)
    finally:
        await spool.close()
        await producer.stop()


async def _waive(settings: WaiveSettings, spool_id: str, reason: str) -> None:
    if spool_id not in await known_spools(settings):
        raise Usage(f"no spool {spool_id} was ever announced: see `khata spools list`")
    opened = current_database(settings, "khata_invoicer", "spools-waive")
    async with opened as database, database.transaction() as connection:
        await waive_spool(connection, spool_id, reason, operator())
