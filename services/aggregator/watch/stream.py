"""Faust as watch needs it: one topic read as bytes, one table of states, nothing else of what it can do.

No worker, web server or signal handling of its own: it runs inside the process like any other part. Topics are made by
`khata topics apply` alone. The table is in memory and its changelog is watch.state.v1; after a kill Faust may repeat
records that are in the table already, which changes nothing (detect.observe).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faust
from faust.types import TP
from faust.types.enums import ProcessingGuarantee

from services.aggregator.watch.settings import WatchSettings
from shared.contracts.topics import KEYS_ACTIVITY, WATCH_STATE, Topic
from shared.kafka.partitions import partition_of

RAW: dict[str, Any] = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}


@dataclass(frozen=True, slots=True)
class Stream:
    """`activity` is to be read, `states` a mapping of key ids to encoded states."""

    app: faust.App
    activity: Any
    states: Any
    partitions: int

    async def unread(self) -> dict[int, bool]:
        """Our partitions, and whether something is unread there; none while they are being assigned.

        Raises KafkaError.
        """
        name = self.activity.get_topic_name()
        mine = [TP(tp.topic, tp.partition) for tp in self.app.consumer.assignment() if tp.topic == name]
        if self.app.rebalancing or not mine:
            return {}
        found = {}
        for tp, end in (await self.app.consumer.highwaters(*mine)).items():
            position = await self.app.consumer.position(tp)
            found[tp.partition] = position is None or position < end
        return found


def make(settings: WatchSettings, folder: str, partitions: int) -> Stream:
    """`folder` stays empty: the store is in memory. `partitions`: of key activity and, as many, of the states."""
    servers = ";".join(f"kafka://{server.strip()}" for server in settings.kafka_bootstrap_servers.split(","))
    group = settings.names.group("watch")

    class Keys(faust.Table[bytes, bytes]):
        """May be set outside of the stream too: where a key belongs does not hang on the record in hand."""

        def partition_for_key(self, key: bytes) -> int:
            return partition_of(key, partitions)

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
        topic_partitions=partitions,
        table_standby_replicas=0,
        Table=Keys,
    )

    # Bytes as they are: what Faust cannot decode it acknowledges, and restarts the agent.
    def topic(of: Topic, **more: Any) -> Any:
        return app.topic(settings.names.topic(of), partitions=partitions, **RAW, **more)

    changelog = topic(WATCH_STATE, compacting=True)
    states = app.Table("keys", key_type=bytes, value_type=bytes, partitions=partitions, changelog_topic=changelog)
    return Stream(app, topic(KEYS_ACTIVITY), states, partitions)


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
