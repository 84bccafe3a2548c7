"""The Kafka door: raw topics -> checked and stamped -> `usage.events.v1`.

Producers here are trusted by broker ACL. On `usage.raw.v1` the extension `project` names the project; a topic of a
project's own (`usage.raw.<project>.v1`) fixes it by its name. Structured and binary mode are read (CloudEvents Kafka
protocol binding 1.0). The group's offsets live in Kafka and move once everything below them is acked downstream or
in the dead-letter topic:

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
from services.ingest.activity import Activity
from services.ingest.binary import KAFKA_PREFIX, envelope_of, kafka_attributes
from services.ingest.settings import IngestSettings
from services.ingest.validate import Clock, Envelope, Sender, is_known, read_envelope, stamp
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

# Identities are kept that much longer than the oldest event may be.
MOST_REDRIVE_MS = 30 * 24 * 3600 * 1000
MODES = {"live": True, "test": False}
STRUCTURED = (b"application/cloudevents+json", b"application/json", b"")


@dataclass
class KafkaDoor:
    """Handler of the consumer loop for raw topics."""

    settings: IngestSettings
    cache: CatalogueCache
    producer: AckedSender
    dead_letters: Producer  # the fast one has no room for a record at the broker's limit
    ingest_id: str
    group: str
    activity: Activity | None = None

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
        if self.activity is not None:
            own = self.settings.names.raw_project
            self.activity.over_kafka((event.project for event in accepted), (own(one.record.topic) for one in rejects))
        await failpoint("ingest.door.before_commit")

    async def _check(self, record: Record, refresh: Refresh) -> StampedEvent:
        envelope = _envelope(record)
        name = self.settings.names.raw_project(record.topic) or envelope.project
        known = name in self.cache.projects and is_known(envelope.type, self.cache.meters)
        if not known and not self.cache.accepts_unknown_types(name or ""):
            await refresh()  # it may have been made a moment ago
        if name is None or name not in self.cache.projects:
            raise Rejected("unknown_project", f"there is no project {name!r}: set the extension `project`")
        mode = envelope.mode or "live"
        if mode not in MODES:
            raise Rejected("invalid_event", "the extension `mode` must be live or test")
        original_ms = headers.whole_number(record.headers, headers.DLQ_TIMESTAMP)
        taken_ms = record.timestamp_ms
        if original_ms is not None:  # anyone may write the header: an event of any age must not pass by it
            taken_ms = max(min(original_ms, taken_ms), taken_ms - MOST_REDRIVE_MS)
        return stamp(
            envelope,
            Sender(name, MODES[mode]),
            self.cache.meters,
            Clock(datetime.fromtimestamp(taken_ms / 1000, UTC), timedelta(days=self.settings.horizon_days)),
            self.ingest_id,
            self.cache.version,
            accept_unknown_types=self.cache.accepts_unknown_types(name),
            zone=self.cache.zone_of(name),
        )


def _envelope(record: Record) -> Envelope:
    """Raises Rejected: `malformed` (a tombstone is no data), `unsupported_media_type`, `invalid_event`, `too_large`."""
    if record.damaged:
        raise Rejected("malformed", record.damaged)
    content_type = headers.first(record.headers, headers.CONTENT_TYPE)
    media_type = (content_type or b"").partition(b";")[0].strip().lower()
    if not record.value:
        raise Rejected("malformed", "the record has no value: a tombstone is no event")
    structured = media_type.startswith(b"application/cloudevents")
    if not structured and any(name.startswith(KAFKA_PREFIX) for name, _ in record.headers):
        declared = None if content_type is None else content_type.decode("latin-1")
        return envelope_of(kafka_attributes(record.headers), declared, record.value)
    if media_type not in STRUCTURED:
        raise Rejected(
            "unsupported_media_type",
            "content-type must be application/cloudevents+json, or the attributes must be ce_ headers (binary mode)",
        )
    return read_envelope(record.value)
