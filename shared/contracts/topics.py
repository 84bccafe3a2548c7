"""The one list of topics: who owns, writes and reads each, and how long it is kept.

`khata topics apply` creates and checks them. Names get the prefix of the settings
(`KAFKA_TOPIC_PREFIX`) through `Names`; every topic has a dead-letter twin `<topic>.dlq`.
All use LogAppendTime: retention counts from the moment the broker took the record, so a
back-fill with old event times does not expire unread.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

HOUR_MS = 3600 * 1000
DAY_MS = 24 * HOUR_MS
DEAD_LETTER_SUFFIX = ".dlq"
# A record of the broker's default limit (1 MiB, compressed) must fit into its dead-letter topic with the
# headers that are added, however well its producer had compressed it.
MAX_DEAD_LETTER_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic as `khata topics apply` makes it.

    `compacted`: the last record of a key is kept, for ever where `retention_ms` is None, else at least that long.
    """

    name: str
    owner: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    key: str
    value: str
    partitions: int
    retention_ms: int | None
    compacted: bool = False


USAGE_RAW = Topic(
    name="usage.raw.v1",
    owner="ingest",
    producers=("anyone with the broker's leave",),
    consumers=("ingest",),
    key="any",
    value="CloudEvents 1.0, structured or binary mode; the extension `project` names the project",
    partitions=4,
    retention_ms=14 * DAY_MS,
)
USAGE_EVENTS = Topic(
    name="usage.events.v1",
    owner="ingest",
    producers=("ingest",),
    consumers=("aggregator",),
    key="project and subject",
    value="a validated, stamped event (contracts/messages/event.py)",
    partitions=4,
    retention_ms=14 * DAY_MS,
)
USAGE_WINDOWS = Topic(
    name="usage.windows.v1",
    owner="aggregator",
    producers=("aggregator",),
    consumers=("watch",),
    key="window; the partition is that of its project and subject, as in usage.events.v1",
    value="a changed window as it stands, with its revision: the highest one is the truth",
    partitions=USAGE_EVENTS.partitions,
    # Compacted, so that who starts reading finds each window once; deleted in the end, for there is no end of windows,
    # and the table has the old ones.
    retention_ms=35 * DAY_MS,
    compacted=True,
)
INGEST_RECEIPTS = Topic(
    name="ingest.receipts.v1",
    owner="ingest",
    producers=("ingest",),
    consumers=(),
    key="ingest process",
    value="per minute, topic and partition: offset range, count and fingerprint of what Kafka acknowledged",
    partitions=1,
    retention_ms=35 * DAY_MS,
)
CATALOGUE = Topic(
    name="catalogue.v1",
    owner="catalogue",
    producers=("catalogue",),
    consumers=("ingest",),
    key="entity kind and id",
    value="organisation, project, key hash or meter with its version",
    partitions=1,
    retention_ms=None,
    compacted=True,
)
INVOICES = Topic(
    name="invoices.v1",
    owner="invoicer",
    producers=("invoicer",),
    consumers=("payments",),
    key="organisation",
    value="an invoice was finalized or cancelled",
    partitions=2,
    retention_ms=90 * DAY_MS,
)
PAYMENTS = Topic(
    name="payments.v1",
    owner="payments",
    producers=("payments",),
    consumers=(),
    key="organisation",
    value="a payment was captured, failed or could not be matched",
    partitions=2,
    retention_ms=90 * DAY_MS,
)
PAYMENTS_WEBHOOKS = Topic(
    name="payments.webhooks.v1",
    owner="payments",
    producers=("receiver",),
    consumers=("payments",),
    key="Razorpay order, link or payment id",
    value="a verified webhook: body bytes and headers",
    partitions=2,
    retention_ms=30 * DAY_MS,
)
SPOOLS = Topic(
    name="spools.v1",
    owner="ingest",
    producers=("ingest", "receiver"),
    consumers=("invoicer",),
    key="spool id",
    value="what a spool says of itself: as of when, oldest unsent, totals, retired",
    partitions=1,
    retention_ms=None,
    compacted=True,
)
INGEST_PROCESSES = Topic(
    name="ingest.processes.v1",
    owner="ingest",
    producers=("ingest",),
    consumers=("ingest",),
    key="ingest process",
    value="it lives, or leaves: how many share the limits of a key",
    partitions=1,
    retention_ms=HOUR_MS,
)
KEYS_ACTIVITY = Topic(
    name="keys.activity.v1",
    owner="ingest",
    producers=("ingest",),
    consumers=("aggregator", "watch"),
    key="key id",
    value="what one process saw of one key in one minute: events, failed calls, addresses",
    partitions=4,
    retention_ms=7 * DAY_MS,
)
WATCH_STATE = Topic(
    name="watch.state.v1",
    owner="watch",
    producers=("watch",),
    consumers=(),
    key="key id",
    value="what watch has learned of a key; its own changelog, as wide as keys.activity.v1",
    partitions=KEYS_ACTIVITY.partitions,
    retention_ms=None,
    compacted=True,
)
WATCH_HOURS = Topic(
    name="watch.hours.v1",
    owner="watch",
    producers=("watch",),
    consumers=(),
    key="series of windows",
    value="what watch has learned of the hours of a subject and meter; its own changelog, as wide as usage.windows.v1",
    partitions=USAGE_WINDOWS.partitions,
    retention_ms=None,
    compacted=True,
)
ANOMALIES = Topic(
    name="anomalies.v1",
    owner="watch",
    producers=("watch",),
    consumers=("aggregator",),
    key="project",
    value="a finding: something unusual about a key, or about an hour of a subject and meter",
    partitions=2,
    retention_ms=30 * DAY_MS,
)

TOPICS: tuple[Topic, ...] = (
    USAGE_RAW,
    USAGE_EVENTS,
    USAGE_WINDOWS,
    INGEST_RECEIPTS,
    CATALOGUE,
    INVOICES,
    PAYMENTS,
    PAYMENTS_WEBHOOKS,
    SPOOLS,
    INGEST_PROCESSES,
    KEYS_ACTIVITY,
    WATCH_STATE,
    WATCH_HOURS,
    ANOMALIES,
)


def project_raw(project_id: str) -> Topic:
    """A project's own public door: its name says whose every event in it is."""
    return replace(
        USAGE_RAW,
        name=f"usage.raw.{project_id}.v1",
        value="CloudEvents 1.0, structured or binary mode; all of one project",
    )


def dead_letter(topic: Topic) -> Topic:
    """The dead-letter twin: same partitions, kept 90 days, longer than any billing period."""
    return Topic(
        name=topic.name + DEAD_LETTER_SUFFIX,
        owner=topic.owner,
        producers=topic.consumers,
        consumers=("aggregator",),
        key=topic.key,
        value="the record byte for byte, with `dlq.*` headers (contracts/headers.py)",
        partitions=topic.partitions,
        retention_ms=90 * DAY_MS,
    )


def with_dead_letters(topics: tuple[Topic, ...] = TOPICS) -> tuple[Topic, ...]:
    """Every topic that must exist: the list and the twins of those that somebody consumes."""
    return topics + tuple(dead_letter(topic) for topic in topics if topic.consumers)


@dataclass(frozen=True, slots=True)
class Names:
    """Real names under a prefix, so that tests and installations can share one broker."""

    prefix: str = ""

    def topic(self, topic: Topic) -> str:
        return self.prefix + topic.name

    def real(self, name: str) -> str:
        """The real name of a topic or group that a person has typed with the prefix or without it."""
        return name if name.startswith(self.prefix) else self.prefix + name

    def raw_project(self, topic_name: str) -> str | None:
        """Whose a raw topic is by its (real) name; None for `usage.raw.v1` and for every other topic."""
        name = topic_name.removeprefix(self.prefix)
        own = name.startswith("usage.raw.") and name.endswith(".v1") and name != USAGE_RAW.name
        return name.removeprefix("usage.raw.").removesuffix(".v1") if own else None

    def dead_letter(self, topic_name: str) -> str:
        """Dead-letter topic of a real (already prefixed) topic name."""
        return topic_name + DEAD_LETTER_SUFFIX

    def group(self, service: str, purpose: str = "") -> str:
        """Consumer group `khata.<service>[.<purpose>]`; renaming one means processing again from the start."""
        return f"{self.prefix}khata.{service}" + (f".{purpose}" if purpose else "")
