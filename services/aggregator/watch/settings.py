"""Settings of watch."""

from __future__ import annotations

from pydantic import Field

from shared.runtime.settings import KafkaSettings, ProcessSettings


class WatchSettings(ProcessSettings, KafkaSettings):
    """What `khata run watch` needs."""

    look_every_s: float = Field(
        5.0,
        gt=0,
        le=30,
        alias="WATCH_LOOK_EVERY_S",
        description="how often all keys are looked at, not only those read",
    )
