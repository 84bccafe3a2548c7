"""Wire watch: Faust reads keys.activity.v1 and keeps the states of keys in a table; the detectors are ours (detect.py).

Faust runs inside the process like any other part: no worker, web server or signal handling of its own. One agent
without concurrency (with it Faust may pass over a record: faust-streaming #606). The table is in memory, its changelog
is watch.state.v1; after a kill Faust may repeat records that are in the table already, which changes nothing
(detect.observe). To build the states anew from the 7 days of the topic, see README.md.
"""

from __future__ import annotations

import asyncio
import logging as standard
import tempfile
from contextlib import AsyncExitStack
from typing import Any

import faust
from aiokafka.errors import KafkaError
from faust.types import TP
from faust.types.enums import ProcessingGuarantee

from services.aggregator.watch.settings import WatchSettings
from services.aggregator.watch.watch import Watch, partition_of
from shared.contracts.topics import ANOMALIES, KEYS_ACTIVITY, WATCH_STATE, Topic
from shared.domain.errors import BrokerAway, KhataError
from shared.kafka import topics
from shared.kafka.producer import Producer
from shared.observability import logging
from shared.observability import names as metrics
from shared.runtime import service
from shared.runtime.pause import pause
from shared.runtime.service import Process

LOOK_DEADLINE_S = 10.0
PARTITIONS = KEYS_ACTIVITY.partitions

log = logging.get(__name__)


async def run(settings: WatchSettings, process: Process) -> None:
    """Read until stopped. Raises BrokerAway at the start, and when Faust ends by itself."""
    for noisy in ("faust", "mode"):
        standard.getLogger(noisy).setLevel(standard.WARNING)
    await topics.require(settings, (KEYS_ACTIVITY, WATCH_STATE, ANOMALIES))
    async with AsyncExitStack() as opened:
        producer = Producer(settings, f"watch-{settings.instance}")
        opened.push_async_callback(producer.stop)
        await producer.start()
        folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="khata-watch-"))
        app = make(settings, folder)
        watch = Watch(_table(app, settings), producer, settings.names)
        _read(app, settings, watch)
        opened.push_async_callback(app.stop)
        starting = asyncio.ensure_future(app.start())
        process.health.checks |= {"kafka": producer.check, "stream": lambda: _check(app, starting)}
        await _either(starting, process.stop)
        if not starting.done():  # asked to stop before it was there
            starting.cancel()
            return
        try:
            await starting
        except KafkaError as error:
            raise BrokerAway(f"Kafka at {settings.kafka_bootstrap_servers}: {error}") from error
        await _look(app, settings, watch, process.stop)


def make(settings: WatchSettings, folder: str) -> faust.App:
    """`folder` stays empty: the store is in memory."""
    servers = ";".join(f"kafka://{server.strip()}" for server in settings.kafka_bootstrap_servers.split(","))
    group = settings.names.group("watch")
    return faust.App(
        group,
        broker=servers,
        broker_credentials=_credentials(settings),
        broker_client_id=f"watch-{settings.instance}",
        consumer_group_instance_id=f"{group}.{settings.instance}",
        consumer_auto_offset_reset="earliest",
        # A member that was killed is replaced in seconds, not after Faust's 60 (measured).
        broker_session_timeout=8,
        broker_heartbeat_interval=2,
        broker_rebalance_timeout=10,
        stream_wait_empty=False,
        processing_guarantee=ProcessingGuarantee.AT_LEAST_ONCE,
        store="memory://",
        datadir=folder,
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=PARTITIONS,
        table_standby_replicas=0,
        Table=_Keys,
    )


class _Keys(faust.Table[bytes, bytes]):
    """A table that may be set outside of the stream too: where a key belongs does not hang on the record in hand."""

    def partition_for_key(self, key: bytes) -> int:
        return partition_of(key, PARTITIONS)


def _table(app: faust.App, settings: WatchSettings) -> Any:
    changelog = _topic(app, settings, WATCH_STATE, compacting=True)
    return app.Table(
        "keys",
        key_type=bytes,
        value_type=bytes,
        partitions=PARTITIONS,
        changelog_topic=changelog,
    )


def _topic(app: faust.App, settings: WatchSettings, topic: Topic, **more: Any) -> Any:
    """Bytes as they are: what Faust cannot decode it acknowledges, and restarts the agent."""
    name = settings.names.topic(topic)
    raw: dict[str, Any] = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    return app.topic(name, partitions=topic.partitions, **raw, **more)


def _read(app: faust.App, settings: WatchSettings, watch: Watch) -> None:
    topic = _topic(app, settings, KEYS_ACTIVITY)

    async def read(stream: Any) -> None:
        async for event in stream.events():
            await _take(watch, event)

    app.agent(topic, name="read", concurrency=1)(read)


async def _take(watch: Watch, event: Any) -> None:
    """Faust would acknowledge a record whose agent failed, and start the agent again: so nothing fails here."""
    message = event.message
    while True:
        try:
            return await watch.take(message.value, message.partition, message.timestamp)
        except BrokerAway as away:  # a finding was not taken; the state has not changed
            log.warning("watch.waiting", error=str(away))
            await asyncio.sleep(1.0)
        except Exception as error:  # noqa: BLE001 - a bug may cost one record, never the stream
            metrics.WATCH_READ.labels("failed").inc()
            log.error("watch.failed", partition=message.partition, offset=message.offset, error=repr(error))
            return None


async def _look(app: faust.App, settings: WatchSettings, watch: Watch, stop: asyncio.Event) -> None:
    """Every few seconds, at all keys: also when nothing is read, or not of them. Raises BrokerAway."""
    while not await pause(stop, settings.look_every_s):
        if app.should_stop:
            raise BrokerAway(f"watch: Faust ended by itself: {app.crash_reason!r}")
        try:
            async with asyncio.timeout(LOOK_DEADLINE_S):
                mine = await _assigned(app, settings)
                for partition in [partition for partition, unread in mine.items() if not unread]:
                    watch.waited(partition, 2 * settings.look_every_s)
                await watch.look(list(mine), PARTITIONS)
        except (KafkaError, KhataError, TimeoutError) as error:
            metrics.WATCH_FAILURES.inc()
            log.warning("watch.not_looked", error=str(error) or type(error).__name__)


async def _assigned(app: faust.App, settings: WatchSettings) -> dict[int, bool]:
    """Our partitions of key activity, and whether something is unread there. Raises KafkaError."""
    name = settings.names.topic(KEYS_ACTIVITY)
    mine = [TP(tp.topic, tp.partition) for tp in app.consumer.assignment() if tp.topic == name]
    if app.rebalancing or not mine:
        return {}
    ends = await app.consumer.highwaters(*mine)
    found = {}
    for tp, end in ends.items():
        position = await app.consumer.position(tp)
        found[tp.partition] = position is None or position < end
    return found


async def _check(app: faust.App, starting: asyncio.Future[None]) -> str | None:
    """Readiness."""
    if not starting.done():
        return "the states of keys are not recovered yet"
    return "partitions are being assigned" if app.rebalancing else None


def _credentials(settings: WatchSettings) -> Any:
    """What aiokafka is given for other services, as Faust names it."""
    arguments = settings.client_arguments()
    context = arguments.get("ssl_context")
    if "sasl_mechanism" in arguments:
        return faust.SASLCredentials(
            username=arguments["sasl_plain_username"],
            password=arguments["sasl_plain_password"],
            mechanism=arguments["sasl_mechanism"],
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)


async def _either(work: asyncio.Future[Any], stop: asyncio.Event) -> None:
    waiting = asyncio.ensure_future(stop.wait())
    await asyncio.wait([work, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


def main() -> int:
    return service.main("watch", WatchSettings, run)
