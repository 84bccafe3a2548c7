"""Settings of ingest."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from services.ingest.addresses import networks
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

    addresses: Literal["hashed", "clear"] = Field(
        "hashed",
        alias="INGEST_ADDRESSES",
        description="how key activity tells where calls come from; clear: readable, which is personal data",
    )
    trusted_proxies: str = Field(
        "",
        alias="INGEST_TRUSTED_PROXIES",
        description="networks (10.0.0.0/8,192.0.2.1) whose X-Forwarded-For is believed; none: the peer is the client",
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        networks(value)
        return value

    @model_validator(mode="after")
    def _spooling_needs_a_spool(self) -> Self:
        if self.accept == "spool" and self.spool_path is None:
            raise ValueError("INGEST_ACCEPT=spool needs SPOOL_PATH, the file of this process's spool")
        return self

    def spool(self) -> SpoolSettings | None:
        """The spool's own settings, where there is one. Raises Misconfigured."""
        return None if self.spool_path is None else load(SpoolSettings, spool_path=self.spool_path)
