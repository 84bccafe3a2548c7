"""The Kafka door: `usage.raw.v1` -> checked and stamped -> `usage.events.v1`.

Producers here are trusted by broker ACL; the extension `project` names the project. The group's offsets
live in Kafka and move once everything below them is acked downstream or in the dead-letter topic:

    1  check the batch against the catalogue (read to its end before the door opens)
    2  dead letters written and acked
    3  events sent and acked           crash before 4: they are sent again; the identity makes it harmless
    4  position committed (control records included)

A missing `time` becomes the record's timestamp and ages are taken against that, so a re-read yields the same event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from services.ingest.accept import accept
from services.ingest.settings import IngestSettings
from services.ingest.validate import Clock, Envelope, Sender, read_envelope, stamp
from shared.catalogue.cache import CatalogueCache, Refresh
from shared.contracts import headers
from shared.contracts.messages.event import StampedEvent
from shared.domain.errors import BrokerAway, Rejected
from shared.kafka import dead_letter
from shared.kafka.dead_letter import Reject
from shared.kafka.offsets import StoredOffset
from shared.kafka.producer import ACK_DEADLINE_S, AckedSender, Producer
from shared.kafka.records import Batch, Partition, Record
from shared.observability import names as metrics
from shared.runtime.failpoints import failpoint

MODES = {"live": True, "test": False}


@dataclass
class KafkaDoor:
    """Handler of the consumer loop for raw topics."""

    settings: IngestSettings
    cache: CatalogueCache
    producer: AckedSender
    dead_letters: Producer  # the fast one has no room for a record at the broker's limit
    ingest_id: str
    group: str

    async def stored(self, partitions: Sequence[Partition]) -> Mapping[Partition, StoredOffset | None]:
        admin = AIOKafkaAdminClient(**self.settings.client_arguments())
        try:
            await admin.start()
            committed = await admin.list_consumer_group_offsets(self.group, partitions=list(partitions))
        except KafkaError as error:
            raise BrokerAway(f"Kafka: {error}") from error
        finally:
            await admin.close()
        missing = [partition for partition in partitions if partition not in committed]
        if missing:  # a coordinator that moves answers with nothing: that is not "never committed"
            raise BrokerAway(f"Kafka told no position of {missing[0].topic}[{missing[0].partition}]")
        found = {partition: committed[partition].offset for partition in partitions}
        return {partition: StoredOffset(at) if at >= 0 else None for partition, at in found.items()}

    async def apply(self, batch: Batch) -> None:
        accepted: list[StampedEvent] = []
        rejects: list[Reject] = []
        refresh = self.cache.refresh_once()
        for record in batch.records:
            try:
                accepted.append(await self._check(record, refresh))
            except Rejected as error:
                metrics.EVENTS_REJECTED.labels("kafka", error.code).inc()
                rejects.append(Reject(record, error))
        await dead_letter.write(self.dead_letters, rejects, self.group, "ingest")
        await accept(accepted, self.settings.names, self.producer, "kafka", ACK_DEADLINE_S)
        await failpoint("ingest.door.before_commit")

    async def _check(self, record: Record, refresh: Refresh) -> StampedEvent:
        envelope = self._envelope(record)
        if envelope.project not in self.cache.projects or envelope.type not in self.cache.meters.by_type:
            await refresh()  # it may have been made a moment ago
        if envelope.project is None or envelope.project not in self.cache.projects:
            raise Rejected("unknown_project", f"there is no project {envelope.project!r}: set the extension `project`")
        if envelope.mode not in MODES:
            raise Rejected("invalid_event", "the extension `mode` must be live or test")
        original_ms = headers.whole_number(record.headers, headers.DLQ_TIMESTAMP)
        taken_ms = record.timestamp_ms if original_ms is None else min(original_ms, record.timestamp_ms)
        clock = Clock(datetime.fromtimestamp(taken_ms / 1000, UTC), timedelta(days=self.settings.horizon_days))
        sender = Sender(envelope.project, MODES[envelope.mode])
        return stamp(envelope, sender, self.cache.meters, clock, self.ingest_id, self.cache.version)

    def _envelope(self, record: Record) -> Envelope:
        content_type = (headers.first(record.headers, headers.CONTENT_TYPE) or headers.CLOUDEVENT_JSON).decode(
            "latin-1"
        )
        if content_type.partition(";")[0].strip() not in ("application/cloudevents+json", "application/json"):
            raise Rejected("unsupported_media_type", "only structured mode (application/cloudevents+json) is read")
        if not record.value:
            raise Rejected("malformed", "the record has no value")
        return read_envelope(record.value)
