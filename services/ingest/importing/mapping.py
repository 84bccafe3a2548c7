"""The mapping file: what the columns of a CSV mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from shared.domain.errors import Rejected, Usage
from shared.domain.period import time_zone
from shared.runtime.documents import problems, read_yaml


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Value(Part):
    """A column, or the same text for every row."""

    column: str | None = None
    constant: str | None = None
    type: Literal["integer", "decimal", "text"] = "text"

    @model_validator(mode="after")
    def _one_of_both(self) -> Value:
        if (self.column is None) == (self.constant is None):
            raise ValueError("needs column or constant, one of them")
        return self


class Time(Part):
    """`format` as strptime reads it, or iso (any number of second digits); `zone` for times that do not say theirs."""

    column: str
    format: str = "iso"
    zone: str = "UTC"

    @field_validator("zone")
    @classmethod
    def _exists(cls, value: str) -> str:
        return _zone(value)


class Mapping(Part):
    """One row is one event. `local_zone` is where days are counted for --into-month."""

    type: Annotated[str, Field(min_length=1)]
    source: str | None = None
    subject: Value
    time: Time
    data: dict[str, Value]
    local_zone: str = "Asia/Kolkata"
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","

    @field_validator("local_zone")
    @classmethod
    def _exists(cls, value: str) -> str:
        return _zone(value)

    @property
    def columns(self) -> set[str]:
        """Columns a file must have."""
        values = [self.subject, *self.data.values()]
        return {value.column for value in values if value.column is not None} | {self.time.column}


def read_mapping(path: Path) -> Mapping:
    """Raises Usage with every mistake and its place."""
    try:
        return Mapping.model_validate(read_yaml(path))
    except ValidationError as error:
        raise Usage(problems(error, str(path))) from None


def _zone(name: str) -> str:
    try:
        time_zone(name)
    except Rejected as error:
        raise ValueError(error.message) from None
    return name
