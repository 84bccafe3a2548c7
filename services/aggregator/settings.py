"""Settings of the aggregator."""

from __future__ import annotations

from pydantic import Field

from shared.kafka.consumer import Limits
from shared.runtime.settings import DatabaseSettings, KafkaSettings, ProcessSettings


class AggregatorSettings(ProcessSettings, KafkaSettings, DatabaseSettings):
    """What `khata run aggregator` needs."""

    batch_records: int = Field(5_000, ge=1, le=50_000, alias="AGGREGATOR_BATCH_RECORDS")
    batch_wait_ms: int = Field(200, ge=1, le=10_000, alias="AGGREGATOR_BATCH_WAIT_MS")

    @property
    def limits(self) -> Limits:
        return Limits(max_records=self.batch_records, wait_ms=self.batch_wait_ms)
