"""A meter's filters and dimensions as JSON: how the catalogue stores, publishes and freezes them. Exact numbers."""

from __future__ import annotations

from typing import Any

from shared.domain.filter import Filter
from shared.domain.identity import canonical, read_data
from shared.domain.meter import Meter

Document = dict[str, Any]


def filters_of(text: str) -> tuple[Filter, ...]:
    """From the JSON of `filters_json`."""
    found = read_data(text.encode())
    return tuple(Filter(one["path"], one["operator"], tuple(one["values"])) for one in found)


def filters_json(filters: tuple[Filter, ...]) -> str:
    return canonical(
        [{"path": one.path, "operator": one.operator, "values": list(one.values)} for one in filters]
    ).decode()


def group_by_of(text: str) -> tuple[tuple[str, str], ...]:
    """From the JSON of `group_by_json`; in order of name."""
    return tuple(sorted(read_data(text.encode()).items()))


def group_by_json(group_by: tuple[tuple[str, str], ...]) -> str:
    return canonical(dict(group_by)).decode()


def counting_terms(meter: Meter) -> Document:
    """What decides how the meter counts, beyond type, aggregation and path; nothing where a meter has nothing of it."""
    terms: Document = {}
    if meter.clamp_min is not None:
        terms["clamp_min"] = str(meter.clamp_min)
    if meter.clamp_max is not None:
        terms["clamp_max"] = str(meter.clamp_max)
    if meter.filters:
        terms["filters"] = filters_json(meter.filters)
    if meter.group_by:
        terms["group_by"] = group_by_json(meter.group_by)
    if meter.effective_from is not None:
        terms["effective_from"] = meter.effective_from.isoformat()
    return terms
