"""Findings leave watch: acknowledged by Kafka before the state that made them is kept."""

from __future__ import annotations

from collections.abc import Iterable

from shared.contracts.messages.activity import UNKNOWN
from shared.contracts.messages.anomaly import Anomaly, encode_anomaly
from shared.contracts.topics import ANOMALIES, Names
from shared.kafka.producer import AckedSender
from shared.observability import logging
from shared.observability import names as metrics
from shared.postgres.outbox import OutboxMessage

log = logging.get(__name__)


async def tell(sender: AckedSender, names: Names, findings: Iterable[Anomaly]) -> None:
    """Raises BrokerAway."""
    for one in findings:
        key = (one.project_id or UNKNOWN).encode()
        await sender.send([OutboxMessage(names.topic(ANOMALIES), key, encode_anomaly(one))])
        metrics.WATCH_FINDINGS.labels(one.found.value).inc()
        log.info("watch.found", kind=one.found.value, key_id=one.key_id, project=one.project_id, text=one.text)
