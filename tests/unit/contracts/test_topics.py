"""The list of topics says of each who owns it and where its dead letters go."""

from __future__ import annotations

from shared.contracts.topics import DAY_MS, MAX_DEAD_LETTER_BYTES, TOPICS, USAGE_EVENTS, Names, with_dead_letters
from shared.kafka.topics import configuration

SERVICES = {
    "ingest",
    "aggregator",
    "watch",
    "invoicer",
    "payments",
    "receiver",
    "catalogue",
    "anyone with the broker's leave",
}


def test_every_topic_has_an_owner_a_producer_and_a_meaning() -> None:
    for topic in TOPICS:
        assert topic.owner in SERVICES
        assert set(topic.producers) | set(topic.consumers) <= SERVICES
        assert topic.producers
        assert topic.key
        assert topic.value
    assert len({topic.name for topic in TOPICS}) == len(TOPICS)


def test_every_topic_that_is_read_has_a_dead_letter_topic_as_wide_that_is_kept_longer() -> None:
    made = {topic.name: topic for topic in with_dead_letters()}
    for topic in TOPICS:
        if topic.consumers:
            twin = made[topic.name + ".dlq"]
            assert twin.partitions == topic.partitions
            assert twin.retention_ms == 90 * DAY_MS
    assert set(made) == {t.name for t in TOPICS} | {f"{t.name}.dlq" for t in TOPICS if t.consumers}


def test_a_dead_letter_topic_takes_whatever_its_topic_took() -> None:
    for topic in with_dead_letters():
        bytes_most = configuration(topic, 3).get("max.message.bytes")
        assert bytes_most == (str(MAX_DEAD_LETTER_BYTES) if topic.name.endswith(".dlq") else None)


def test_retention_counts_from_the_append_and_an_acked_record_outlives_a_broker() -> None:
    for topic in with_dead_letters():
        made = configuration(topic, 3)
        assert (made["message.timestamp.type"], made["min.insync.replicas"]) == ("LogAppendTime", "2")
        assert made["unclean.leader.election.enable"] == "false"
    policies = {topic.name: configuration(topic, 3)["cleanup.policy"] for topic in TOPICS}
    assert (policies["usage.events.v1"], policies["catalogue.v1"]) == ("delete", "compact")
    assert policies["usage.windows.v1"] == "compact,delete"  # each window's last word, and no window for ever


def test_names_carry_the_prefix() -> None:
    names = Names("stage.")
    assert names.topic(USAGE_EVENTS) == "stage.usage.events.v1"
    assert names.dead_letter(names.topic(USAGE_EVENTS)) == "stage.usage.events.v1.dlq"
    assert names.group("aggregator", "watch") == "stage.khata.aggregator.watch"
