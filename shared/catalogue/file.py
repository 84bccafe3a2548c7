"""The catalogue file: what an operator writes in YAML. pydantic, because this is a door.

`seller` and `prices` are handed on as they stand to the invoicer, which owns them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from shared.catalogue.meter_entry import Entry, MeterEntry
from shared.domain.errors import Rejected, Usage
from shared.domain.period import time_zone
from shared.runtime.documents import problems, read_yaml

Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Scope = Literal["events:write", "usage:read"]


class LimitEntry(Entry):
    """Events per second in the long run, and how many may come at once; a call above `burst` can never pass."""

    per_second: Annotated[int, Field(ge=1, le=1_000_000)]
    burst: Annotated[int, Field(ge=1, le=10_000_000)]


class OrganisationEntry(Entry):
    """A customer. `state_code` is the GST state of the address (29 = Karnataka) where the country is IN."""

    id: Id
    name: Annotated[str, Field(min_length=1, max_length=200)]
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "INR"
    time_zone: str = "Asia/Kolkata"
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] = "IN"
    state_code: Annotated[str, Field(pattern=r"^\d{2}$")] | None = None
    gstin: str | None = None
    address: str = ""
    email: str | None = None
    limit: LimitEntry | None = None  # of all its keys together; none: unlimited

    @field_validator("time_zone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        try:
            time_zone(value)
        except Rejected as error:
            raise ValueError(error.message) from None
        return value

    @model_validator(mode="after")
    def _indian_has_state(self) -> OrganisationEntry:
        if self.country == "IN" and self.state_code is None and self.gstin is None:
            raise ValueError("an organisation in India needs state_code or gstin (place of supply, IGST Act s.12)")
        return self


class ProjectEntry(Entry):
    """`accept_unknown_types`: keep events that no meter counts, instead of refusing them. `raw_topic`: a topic of
    its own for producers on Kafka, `usage.raw.<id>.v1`, where every event is this project's."""

    id: Id
    organisation: Id
    name: str = ""
    accept_unknown_types: bool = False
    raw_topic: bool = False


class KeyEntry(Entry):
    """A key by name; its secret is made on the first apply and shown once."""

    name: Id
    project: Id
    mode: Literal["live", "test"] = "live"
    scopes: tuple[Scope, ...] = ("events:write",)
    limit: LimitEntry | None = None


class CatalogueFile(Entry):
    organisations: tuple[OrganisationEntry, ...] = ()
    projects: tuple[ProjectEntry, ...] = ()
    meters: tuple[MeterEntry, ...] = ()
    keys: tuple[KeyEntry, ...] = ()
    seller: dict[str, Any] | None = None
    prices: tuple[dict[str, Any], ...] = ()

    @model_validator(mode="after")
    def _ids_once(self) -> CatalogueFile:
        for kind, ids in (
            ("organisation", [entry.id for entry in self.organisations]),
            ("project", [entry.id for entry in self.projects]),
            ("meter", [entry.id for entry in self.meters]),
            ("key", [f"{entry.project}/{entry.name}" for entry in self.keys]),
        ):
            doubled = sorted({id for id in ids if ids.count(id) > 1})
            if doubled:
                raise ValueError(f"{kind} {', '.join(doubled)} stands in the file more than once")
        return self


def read_catalogue(path: Path) -> CatalogueFile:
    """Raises Usage with every mistake and where it stands."""
    return parse_catalogue(read_yaml(path), str(path))


def parse_catalogue(document: Any, name: str) -> CatalogueFile:
    """Raises Usage with every mistake and where it stands."""
    if not isinstance(document, dict):
        raise Usage(f"{name}: must hold organisations, projects, meters, keys, seller or prices")
    try:
        return CatalogueFile.model_validate(document)
    except ValidationError as error:
        raise Usage(problems(error, name)) from None
