"""Settings of ingest."""

from __future__ import annotations

from pydantic import Field

from shared.catalogue.keys import PepperSettings
from shared.runtime.settings import KafkaSettings, Port, ProcessSettings


class IngestSettings(ProcessSettings, KafkaSettings, PepperSettings):
    """What `khata run ingest` needs."""

    http_port: Port = Field(8080, description="POST /v1/events; 0 takes any free port")
    ack_deadline_s: float = Field(
        5.0, gt=0, le=60, alias="INGEST_ACK_DEADLINE_S", description="no ack from Kafka by then: 503"
    )
    horizon_days: int = Field(
        400, ge=1, le=3650, alias="INGEST_HORIZON_DAYS", description="older events are refused (too_late)"
    )
