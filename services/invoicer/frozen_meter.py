"""A meter's definition as an invoice keeps it, and back: what is counted again is counted by these terms."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from services.invoicer.document import offsets_said
from shared.domain.definition import counting_terms, filters_of, group_by_of
from shared.domain.meter import Meter
from shared.usage.backfill import MeterKey
from shared.usage.seal import Cut


def frozen_meter(meter: Meter) -> dict[str, Any]:
    return {
        "id": meter.id,
        "version": meter.version,
        "event_type": meter.event_type,
        "aggregation": meter.aggregation,
        "value_path": meter.value_path,
    } | counting_terms(meter)


def backfilled(cuts: Mapping[MeterKey, Cut], meter: Meter) -> dict[str, Any]:
    """Below which offsets a back-fill counted for the meter; nothing for the others.

    What the meter refuses there is no mistake, and events count that no meter counted when they came.
    """
    cut = cuts.get((meter.id, meter.version))
    return {} if cut is None else {"backfilled_below": offsets_said(cut.offsets)}


def thawed_meter(said: dict[str, Any]) -> Meter:
    """Raises KeyError, TypeError, ValueError for what is no definition."""
    begins = said.get("effective_from")
    return Meter(
        id=said["id"],
        version=said["version"],
        name=said["id"],
        event_type=said["event_type"],
        aggregation=said["aggregation"],
        value_path=said["value_path"],
        clamp_min=Decimal(said["clamp_min"]) if "clamp_min" in said else None,
        clamp_max=Decimal(said["clamp_max"]) if "clamp_max" in said else None,
        filters=filters_of(said.get("filters", "[]")),
        group_by=group_by_of(said.get("group_by", "{}")),
        effective_from=None if begins is None else datetime.fromisoformat(begins),
    )
