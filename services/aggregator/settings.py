"""Settings of the aggregator."""

from __future__ import annotations

import os
import tempfile
from datetime import timedelta
from pathlib import Path

from pydantic import Field

from services.aggregator.generations.keeper import Limits as GenerationLimits
from shared.kafka.consumer import Limits
from shared.runtime.settings import DatabaseSettings, KafkaSettings, ProcessSettings, Settings


class FilterSettings(Settings):
    """Where the filters of closed generations are."""

    filter_dir: Path = Field(
        default_factory=lambda: Path(tempfile.gettempdir()) / f"khata-filters-{os.getuid()}",
        alias="AGGREGATOR_FILTER_DIR",
        description="shared by the processes of a host; what is lost there is built again",
    )


class AggregatorSettings(FilterSettings, ProcessSettings, KafkaSettings, DatabaseSettings):
    """What `khata run aggregator` needs."""

    batch_records: int = Field(8_000, ge=1, le=50_000, alias="AGGREGATOR_BATCH_RECORDS")
    batch_bytes: int = Field(
        16 * 1024 * 1024,
        ge=64 * 1024,
        le=256 * 1024 * 1024,
        alias="AGGREGATOR_BATCH_BYTES",
        description="of a batch and of a fetch; memory follows it",
    )
    batch_wait_ms: int = Field(200, ge=1, le=10_000, alias="AGGREGATOR_BATCH_WAIT_MS")
    breaker_ratio: float = Field(
        0.5,
        gt=0,
        le=1,
        alias="AGGREGATOR_BREAKER_RATIO",
        description="of the last 1,000 records that may be rejected before the process stops; 1: all",
    )
    reconcile: bool = Field(
        True, alias="AGGREGATOR_RECONCILE", description="whether this process may start the scheduled reconciliation"
    )

    publish_windows: bool = Field(
        True, alias="AGGREGATOR_PUBLISH_WINDOWS", description="whether changed windows go to usage.windows.v1"
    )
    publish_every_s: float = Field(2.0, gt=0, le=60, alias="AGGREGATOR_PUBLISH_SECONDS")

    generation_keys: int = Field(
        20_000_000, ge=1_000, le=300_000_000, alias="AGGREGATOR_GENERATION_KEYS", description="rolled at this size"
    )
    generation_days: float = Field(
        14, gt=0, le=400, alias="AGGREGATOR_GENERATION_DAYS", description="rolled at this age, unless it is empty"
    )
    identity_keep_days: int = Field(
        430,
        ge=2,
        le=4000,
        alias="AGGREGATOR_IDENTITY_KEEP_DAYS",
        description="INGEST_HORIZON_DAYS and the longest an accepted event may wait to be applied",
    )

    @property
    def generation_limits(self) -> GenerationLimits:
        return GenerationLimits(
            keys=self.generation_keys,
            age=timedelta(days=self.generation_days),
            keep=timedelta(days=self.identity_keep_days),
        )

    @property
    def limits(self) -> Limits:
        return Limits(max_records=self.batch_records, max_bytes=self.batch_bytes, wait_ms=self.batch_wait_ms)
