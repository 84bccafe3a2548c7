"""Settings of ingest."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from shared.catalogue.keys import PepperSettings
from shared.runtime.settings import KafkaSettings, Port, ProcessSettings, load
from shared.spool.settings import SpoolSettings


class IngestSettings(ProcessSettings, KafkaSettings, PepperSettings):
    """What `khata run ingest` needs."""

    http_port: Port = Field(8080, description="POST /v1/events; 0 takes any free port")
    ack_deadline_s: float = Field(
        5.0, gt=0, le=60, alias="INGEST_ACK_DEADLINE_S", description="no ack from Kafka by then: spool or 503"
    )
    accept: Literal["kafka", "spool"] = Field(
        "kafka", alias="INGEST_ACCEPT", description="spool: everything goes to the spool first (an edge far from Kafka)"
    )
    spool_path: Path | None = Field(
        None, description="file of this process's spool; without one, no ack from Kafka means 503"
    )
    horizon_days: int = Field(
        400, ge=1, le=3650, alias="INGEST_HORIZON_DAYS", description="older events are refused (too_late)"
    )
    max_stale_s: float = Field(
        3600.0,
        ge=1,
        le=7 * 86400,
        alias="INGEST_MAX_STALE_S",
        description="with Kafka away the last catalogue is used that long; a revocation may wait as long",
    )
    key_cache: Path | None = Field(
        None,
        alias="INGEST_KEY_CACHE",
        description="file for a copy of the catalogue (hashes, no keys): a start while Kafka is away works from it",
    )

    @model_validator(mode="after")
    def _spooling_needs_a_spool(self) -> Self:
        if self.accept == "spool" and self.spool_path is None:
            raise ValueError("INGEST_ACCEPT=spool needs SPOOL_PATH, the file of this process's spool")
        return self

    def spool(self) -> SpoolSettings | None:
        """The spool's own settings, where there is one. Raises Misconfigured."""
        return None if self.spool_path is None else load(SpoolSettings, spool_path=self.spool_path)
