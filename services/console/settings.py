"""Settings of the console."""

from __future__ import annotations

from pydantic import Field

from shared.catalogue.keys import PepperSettings
from shared.runtime.settings import DatabaseSettings, KafkaSettings, Port, ProcessSettings


class ConsoleSettings(ProcessSettings, KafkaSettings, DatabaseSettings, PepperSettings):
    """What `khata run console` needs."""

    http_port: Port = Field(8081, description="GET /v1/...; 0 takes any free port")
    max_stale_s: float = Field(
        3600.0,
        ge=1,
        le=7 * 86400,
        alias="CONSOLE_MAX_STALE_S",
        description="with Kafka away the last catalogue is used that long; a revocation may wait as long",
    )
