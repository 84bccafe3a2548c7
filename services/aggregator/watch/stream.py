"""Faust as watch needs it: topics read as bytes, each with a table of states, nothing else of what it can do.

No worker, web server or signal handling of its own: it runs inside the process like any other part. Topics are made by
`khata topics apply` alone. The tables are in memory, their changelogs are watch.state.v1 and watch.hours.v1; after a
kill Faust may repeat records that are in the table already, which changes nothing (`observe`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faust
from faust.types import TP
from faust.types.enums import ProcessingGuarantee

from services.aggregator.watch.hours_watch import place_of
from services.aggregator.watch.settings import WatchSettings
from shared.contracts.topics import KEYS_ACTIVITY, USAGE_WINDOWS, WATCH_HOURS, WATCH_STATE, Topic
from shared.kafka.partitions import partition_of

RAW: dict[str, Any] = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}


@dataclass(frozen=True, slots=True)
class Source:
    """A topic to be read (`records`), and a mapping of keys to encoded states, as wide."""

    app: faust.App
    records: Any
    states: Any
    partitions: int

    async def unread(self) -> dict[int, bool]:
        """Our partitions, and whether something is unread there; none while they are being assigned.

        Raises KafkaError.
        """
        name = self.records.get_topic_name()
        mine = [TP(tp.topic, tp.partition) for tp in self.app.consumer.assignment() if tp.topic == name]
        if self.app.rebalancing or not mine:
            return {}
        found = {}
        for tp, end in (await self.app.consumer.highwaters(*mine)).items():
            position = await self.app.consumer.position(tp)
            found[tp.partition] = position is None or position < end
        return found


@dataclass(frozen=True, slots=True)
class Stream:
    """What keys did, and windows that changed; each with what is remembered of it."""

    app: faust.App
    activity: Source
    windows: Source


def make(settings: WatchSettings, folder: str, activity: int, windows: int) -> Stream:
    """`folder` stays empty: the store is in memory. Partitions of key activity and of windows, and of their states."""
    servers = ";".join(f"kafka://{server.strip()}" for server in settings.kafka_bootstrap_servers.split(","))
    group = settings.names.group("watch")

    # May be set outside of the stream too: where a key belongs does not hang on the record in hand.
    class Keys(faust.Table[bytes, bytes]):
        def partition_for_key(self, key: bytes) -> int:
            return partition_of(key, activity)

    class Hours(faust.Table[bytes, bytes]):
        def partition_for_key(self, key: bytes) -> int:
            return place_of(key, windows)

    app = faust.App(
        group,
        broker=servers,
        broker_credentials=credentials(settings),
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
        topic_partitions=max(activity, windows),
        table_standby_replicas=0,
    )

    # Bytes as they are: what Faust cannot decode it acknowledges, and restarts the agent.
    def source(of: Topic, kept: Topic, table: type[faust.Table[bytes, bytes]], name: str, partitions: int) -> Source:
        def topic(one: Topic, **more: Any) -> Any:
            return app.topic(settings.names.topic(one), partitions=partitions, **RAW, **more)

        states = table(
            app,
            name=name,
            key_type=bytes,
            value_type=bytes,
            partitions=partitions,
            changelog_topic=topic(kept, compacting=True),
            beacon=app.tables.beacon,
        )
        return Source(app, topic(of), app.tables.add(states), partitions)

    return Stream(
        app,
        source(KEYS_ACTIVITY, WATCH_STATE, Keys, "keys", activity),
        source(USAGE_WINDOWS, WATCH_HOURS, Hours, "hours", windows),
    )


def credentials(settings: WatchSettings) -> Any:
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
