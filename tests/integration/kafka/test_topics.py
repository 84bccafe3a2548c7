"""`khata topics apply` makes the list, tells what differs, changes nothing that stands."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from devstack.stack import Stack
from shared.contracts.topics import CATALOGUE, USAGE_EVENTS, with_dead_letters
from shared.domain.errors import BrokerAway, Misconfigured
from shared.kafka import topics
from shared.runtime.settings import KafkaSettings
from tests.conftest import Parts
from tests.support.kafka import admin
from tests.support.usage import NOWHERE
from tests.support.waiting import eventually


def _settings(stack: Stack, prefix: str) -> KafkaSettings:
    return KafkaSettings(kafka_bootstrap_servers=stack.addresses.kafka_bootstrap, kafka_topic_prefix=prefix)


async def test_the_whole_list_is_made_once_under_the_prefix(stack: Stack, prefix: str) -> None:
    settings = _settings(stack, prefix)
    dry = await topics.apply(settings, dev=True, dry_run=True)
    assert {state.outcome for state in dry} == {"created"}
    with pytest.raises(Misconfigured, match=f"{prefix}{USAGE_EVENTS.name}.*run `khata topics apply`"):
        await topics.require(settings, (USAGE_EVENTS,))  # a dry run makes nothing

    both = await asyncio.gather(topics.apply(settings, dev=True), topics.apply(settings, dev=True))
    assert all({state.name for state in run} == {prefix + topic.name for topic in with_dead_letters()} for run in both)
    again = await topics.apply(settings, dev=True)
    assert [(state.outcome, state.differences) for state in again] == [("exists", ())] * len(with_dead_letters())
    assert [state.partitions for state in again] == [topic.partitions for topic in with_dead_letters()]
    await topics.require(settings, with_dead_letters())


async def test_what_differs_is_told_and_left_as_it_is(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    name = parts.kafka.names.topic(USAGE_EVENTS)
    async with admin(parts) as client:
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, {"retention.ms": "60000"})])

    async def states_of() -> dict[str, topics.TopicState]:
        return {state.name: state for state in await topics.apply(parts.kafka, dev=True)}

    # The broker learns of the change a moment after the controller.
    await eventually(states_of, lambda states: states[name].outcome == "differs")
    for _ in range(2):
        states = await states_of()
        assert states[name].outcome == "differs"
        assert any("retention.ms is 60000, should be 1209600000" in text for text in states[name].differences)
    wider = dataclasses.replace(CATALOGUE, partitions=2)
    monkeypatch.setattr(topics, "with_dead_letters", lambda _: (wider,))
    [state] = await topics.apply(parts.kafka, dev=True)
    assert state.differences == ("has 1 partitions, should have 2",)


async def test_production_refuses_too_few_brokers_before_it_makes_anything(stack: Stack, prefix: str) -> None:
    settings = _settings(stack, prefix)
    with pytest.raises(Misconfigured, match=r"1 broker\(s\); production needs 3.*KHATA_DEV"):
        await topics.apply(settings, dev=False)
    with pytest.raises(Misconfigured, match="missing"):
        await topics.require(settings, (CATALOGUE,))


async def test_a_broker_that_is_not_there_is_named() -> None:
    with pytest.raises(BrokerAway, match=r"127\.0\.0\.1:1 .*KAFKA_BOOTSTRAP_SERVERS"):
        await topics.apply(NOWHERE, dev=True)
