"""Faust reaches Kafka as the other services do."""

from __future__ import annotations

from typing import Any

import pytest

from services.aggregator.watch.settings import WatchSettings
from services.aggregator.watch.stream import credentials, make

SASL = {"kafka_sasl_username": "u", "kafka_sasl_password": "p"}


def settings(**more: Any) -> WatchSettings:
    return WatchSettings(kafka_bootstrap_servers="a:9092, b:9093", kafka_topic_prefix="t.", **more)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize(("protocol", "encrypted"), [("SASL_PLAINTEXT", False), ("SASL_SSL", True)])
def test_sasl_with_and_without_tls(mechanism: str, protocol: str, encrypted: bool) -> None:
    found = credentials(settings(kafka_security_protocol=protocol, kafka_sasl_mechanism=mechanism, **SASL))
    assert (found.protocol.value, found.mechanism.value) == (protocol, mechanism)
    assert (found.username, found.password, found.ssl_context is not None) == ("u", "p", encrypted)


def test_tls_alone_and_neither() -> None:
    assert credentials(settings(kafka_security_protocol="SSL")).protocol.value == "SSL"
    assert credentials(settings()) is None


def test_every_server_topics_with_the_prefix_and_no_topic_is_made_by_faust(tmp_path: Any) -> None:
    stream = make(settings(KHATA_INSTANCE="w-1"), str(tmp_path), 4, 6)
    conf = stream.app.conf
    assert [str(url) for url in conf.broker] == ["kafka://a:9092", "kafka://b:9093"]
    assert stream.activity.records.get_topic_name() == "t.keys.activity.v1"
    assert stream.windows.records.get_topic_name() == "t.usage.windows.v1"
    assert stream.windows.states.changelog_topic.get_topic_name() == "t.watch.hours.v1"
    assert (stream.activity.partitions, stream.windows.partitions) == (4, 6)
    assert stream.activity.states.changelog_topic.get_topic_name() == "t.watch.state.v1"
    assert (conf.id, conf.consumer_group_instance_id) == ("t.khata.watch", "t.khata.watch.w-1")
    assert (conf.topic_allow_declare, conf.topic_disable_leader) == (False, True)
