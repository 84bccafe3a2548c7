"""A meter as people write it, in the catalogue file and to `khata meters simulate`."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from shared.domain.correction import RESERVED
from shared.domain.filter import Filter
from shared.domain.identity import read_data
from shared.domain.meter import MAX_SCALE, MAX_WHOLE_DIGITS, Aggregation, Late, Meter

MeterId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,62}$")]
Path = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$", max_length=200)]
Scalar = Annotated[bool | int | Decimal | str | None, Field(union_mode="left_to_right")]
Exact = Annotated[Decimal, Field(max_digits=MAX_WHOLE_DIGITS + MAX_SCALE, decimal_places=MAX_SCALE)]


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ClampEntry(Entry):
    """A value below `min` is taken as `min`, one above `max` as `max`."""

    min: Exact | None = None
    max: Exact | None = None

    @model_validator(mode="after")
    def _in_order(self) -> ClampEntry:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min must not be above max")
        return self


class FilterEntry(Entry):
    """One condition on the value at `path` inside `data`; an event counts only where every filter holds."""

    path: Path
    operator: Literal["in", "not_in", "exists", "missing", "at_least", "below"]
    values: tuple[Scalar, ...] = Field((), max_length=1000, description="at_least and below: one number")

    @model_validator(mode="after")
    def _values_fit(self) -> FilterEntry:
        if self.operator in ("exists", "missing"):
            if self.values:
                raise ValueError(f"{self.operator} takes no values")
        elif self.operator in ("at_least", "below"):
            if len(self.values) != 1 or isinstance(self.values[0], bool | str | None):
                raise ValueError(f"{self.operator} takes one number")
        elif not self.values:
            raise ValueError(f"{self.operator} needs at least one value")
        return self

    def filter(self) -> Filter:
        return Filter(self.path, self.operator, tuple(_as_data(value) for value in self.values))


class MeterEntry(Entry):
    """`value_path`: dots lead into `data`; needed by all but count. `group_by`: name -> path of each dimension.

    `effective_from`: the first hour this definition counts; needed for a change, and for a new meter of a type that
    other meters count already, unless it is back-filled. `backfill`: a new meter counts the events that are there
    already, too; of a meter that exists it says nothing.
    """

    id: MeterId
    name: str = ""
    event_type: Annotated[str, Field(min_length=1, max_length=200)]
    aggregation: Aggregation
    value_path: Path | None = None
    unit: str = "unit"
    billable: bool = True
    clamp: ClampEntry | None = None
    filters: tuple[FilterEntry, ...] = Field((), max_length=20)
    group_by: dict[MeterId, Path] = Field({}, max_length=8)
    late: Late = Field("next_invoice", description="what becomes of a reading that comes after its month was sealed")
    effective_from: AwareDatetime | None = None
    backfill: bool = False

    @field_validator("event_type")
    @classmethod
    def _not_reserved(cls, value: str) -> str:
        if value.startswith(RESERVED):
            raise ValueError(f"types that begin with {RESERVED} are Khata's own: give the events another one")
        return value

    @field_validator("effective_from")
    @classmethod
    def _full_hour(cls, value: datetime | None) -> datetime | None:
        if value is not None and (value.minute, value.second, value.microsecond) != (0, 0, 0):
            raise ValueError("must be a full hour")
        return value

    @model_validator(mode="after")
    def _fits(self) -> MeterEntry:
        if (self.aggregation == "count") != (self.value_path is None):
            raise ValueError(
                f"{self.aggregation} " + ("must not have a value_path" if self.value_path else "needs value_path")
            )
        if "subject" in self.group_by:
            raise ValueError("group_by: subject is the event's own, whatever a meter says; give it another name")
        if self.backfill and self.effective_from is not None:
            raise ValueError("backfill counts from the beginning of time: it cannot have effective_from")
        if self.clamp is not None and self.aggregation in ("count", "unique_count"):
            raise ValueError(f"{self.aggregation} has no value to clamp")
        return self

    def meter(self, version: int = 1) -> Meter:
        """The definition itself."""
        return Meter(
            id=self.id,
            version=version,
            name=self.name or self.id,
            event_type=self.event_type,
            aggregation=self.aggregation,
            value_path=self.value_path,
            unit=self.unit,
            billable=self.billable,
            clamp_min=self.clamp.min if self.clamp else None,
            clamp_max=self.clamp.max if self.clamp else None,
            filters=tuple(entry.filter() for entry in self.filters),
            group_by=tuple(sorted(self.group_by.items())),
            late=self.late,
            effective_from=self.effective_from,
        )


def _as_data(value: Any) -> Any:
    """As it would stand in an event."""
    text = str(value) if isinstance(value, Decimal) else json.dumps(value)
    return read_data(text.encode())
