"""Create and check the topics of the list; never shrink, never delete."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError

from shared.contracts.topics import (
    DEAD_LETTER_SUFFIX,
    MAX_DEAD_LETTER_BYTES,
    TOPICS,
    Topic,
    project_raw,
    with_dead_letters,
)
from shared.domain.errors import BrokerAway, Misconfigured
from shared.runtime.settings import KafkaSettings

PRODUCTION_REPLICATION = 3
VISIBLE_S = 15.0


@dataclass(frozen=True, slots=True)
class TopicState:
    """What `khata topics apply` found or did for one topic."""

    name: str
    partitions: int
    outcome: str  # created | exists | differs
    differences: tuple[str, ...] = ()


def configuration(topic: Topic, replication: int) -> dict[str, str]:
    """Topic configuration Khata depends on."""
    found = {
        "cleanup.policy": _cleanup(topic),
        "retention.ms": str(-1 if topic.retention_ms is None else topic.retention_ms),
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": "2" if replication >= PRODUCTION_REPLICATION else "1",
        "unclean.leader.election.enable": "false",
    }
    if topic.name.endswith(DEAD_LETTER_SUFFIX):
        found["max.message.bytes"] = str(MAX_DEAD_LETTER_BYTES)
    return found


def _cleanup(topic: Topic) -> str:
    if not topic.compacted:
        return "delete"
    return "compact" if topic.retention_ms is None else "compact,delete"


async def apply(
    settings: KafkaSettings, *, dev: bool, dry_run: bool = False, projects: Sequence[str] = ()
) -> list[TopicState]:
    """Create what is missing and tell what differs: the list, and the raw topics of `projects` that have their own.

    Raises BrokerAway, and Misconfigured for too few brokers.
    """
    admin = await _admin(settings)
    try:
        brokers = len((await admin.describe_cluster())["brokers"])
        if brokers < PRODUCTION_REPLICATION and not dev:
            raise Misconfigured(
                f"Kafka has {brokers} broker(s); production needs {PRODUCTION_REPLICATION}, so that an acked record "
                "outlives a machine. For a laptop set KHATA_DEV=true (replication 1: a lost disk loses data)."
            )
        replication = min(PRODUCTION_REPLICATION, brokers)
        present = await _present(admin)
        states, missing = [], []
        for topic in with_dead_letters((*TOPICS, *map(project_raw, projects))):
            name = settings.names.topic(topic)
            if name not in present:
                missing.append(
                    NewTopic(name, topic.partitions, replication, topic_configs=configuration(topic, replication))
                )
                states.append(TopicState(name, topic.partitions, "created"))
            else:
                differences = await _differences(admin, name, topic, present[name], replication)
                states.append(TopicState(name, present[name], "differs" if differences else "exists", differences))
        if missing and not dry_run:
            await _create(admin, missing)
            await _until_visible(admin, {topic.name for topic in missing})
        return states
    except KafkaError as error:
        raise BrokerAway(f"Kafka: {error}") from error
    finally:
        await admin.close()


async def _until_visible(admin: AIOKafkaAdminClient, wanted: set[str]) -> None:
    """A broker learns of new topics a moment after the controller has made them. Raises BrokerAway."""
    try:
        async with asyncio.timeout(VISIBLE_S):
            while not wanted <= (await _present(admin)).keys():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise BrokerAway(f"Kafka made the topics, but does not show them after {VISIBLE_S:g} s") from None


async def require(settings: KafkaSettings, topics: Sequence[Topic]) -> None:
    """A service's start: raises Misconfigured naming the topics that are missing."""
    there = await present(settings)
    wanted = [settings.names.topic(topic) for topic in topics]
    missing = [name for name in wanted if name not in there]
    if missing:
        raise Misconfigured(f"topics are missing: {', '.join(missing)}: run `khata topics apply`")


async def present(settings: KafkaSettings) -> list[str]:
    """Names of all topics of the broker. Raises BrokerAway."""
    admin = await _admin(settings)
    try:
        return list(await admin.list_topics())
    except KafkaError as error:
        raise BrokerAway(f"Kafka: {error}") from error
    finally:
        await admin.close()


async def partitions_of(settings: KafkaSettings, name: str) -> int:
    """How many partitions a topic (by its real name) has. Raises BrokerAway, and Misconfigured without the topic."""
    admin = await _admin(settings)
    try:
        found = (await _present(admin)).get(name)
    except KafkaError as error:
        raise BrokerAway(f"Kafka: {error}") from error
    finally:
        await admin.close()
    if found is None:
        raise Misconfigured(f"there is no topic {name}: run `khata topics apply`, or set KAFKA_TOPIC_PREFIX")
    return found


async def _admin(settings: KafkaSettings) -> AIOKafkaAdminClient:
    admin = AIOKafkaAdminClient(**settings.client_arguments(), request_timeout_ms=15_000)
    try:
        await admin.start()
    except KafkaError as error:
        await admin.close()
        raise BrokerAway(
            f"Kafka at {settings.kafka_bootstrap_servers} does not answer ({error}): "
            "check KAFKA_BOOTSTRAP_SERVERS, or run `khata dev`"
        ) from error
    return admin


async def _present(admin: AIOKafkaAdminClient) -> dict[str, int]:
    names = await admin.list_topics()
    described = await admin.describe_topics(list(names)) if names else []
    return {topic["topic"]: len(topic["partitions"]) for topic in described}


async def _create(admin: AIOKafkaAdminClient, new: list[NewTopic]) -> None:
    """All in one request; another process may make them at the same moment."""
    response = await admin.create_topics(new)
    for name, code, *message in response.topic_errors:
        if code not in (0, TopicAlreadyExistsError.errno):
            raise Misconfigured(f"topic {name} cannot be created (Kafka error {code}: {message})")


async def _differences(
    admin: AIOKafkaAdminClient, name: str, topic: Topic, partitions: int, replication: int
) -> tuple[str, ...]:
    response = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    found = {entry[0]: entry[1] for resource in response[0].resources for entry in resource[4]}
    differences = [
        f"{key} is {found.get(key)}, should be {value}"
        for key, value in configuration(topic, replication).items()
        if found.get(key) != value
    ]
    if partitions < topic.partitions:
        differences.append(f"has {partitions} partitions, should have {topic.partitions}")
    return tuple(differences)
