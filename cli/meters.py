"""`khata meters`: what a meter would say, for cases on standard input; back-fills."""

from __future__ import annotations

import json
import sys
from datetime import UTC
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
import typer
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from services.aggregator.backfill.commands import app as backfill
from shared.catalogue.meter_entry import Entry, MeterEntry
from shared.contracts.messages.event import StampedEvent
from shared.domain.errors import Rejected, Usage
from shared.domain.period import time_zone
from shared.runtime.documents import problems
from shared.usage.simulate import PROJECT, simulate

app = typer.Typer(help="Meters: what is counted.", no_args_is_help=True)
app.add_typer(backfill, name="backfill")


class PeriodEntry(Entry):
    """[start, end): both must be starts of hours in the time zone."""

    start: AwareDatetime
    end: AwareDatetime


class EventEntry(Entry):
    """As a producer sends it; `type` is the meter's where it is not said, `data` stays as it is written."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    time: AwareDatetime
    source: Annotated[str, Field(min_length=1)] = "simulated"
    subject: Annotated[str, Field(min_length=1)] = "simulated"
    type: str | None = None
    data: Any = None


class Case(BaseModel):
    """One line of input."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    meter: MeterEntry
    events: tuple[EventEntry, ...]
    period: PeriodEntry
    window: Literal["hour", "day", "month", "period"] = "period"
    time_zone: str = "Asia/Kolkata"
    level: Decimal = Field(Decimal(0), description="what a weighted_sum carries into the period")

    @field_validator("time_zone")
    @classmethod
    def _exists(cls, value: str) -> str:
        try:
            time_zone(value)
        except Rejected as error:
            raise ValueError(error.message) from None
        return value


class WindowResult(BaseModel):
    """`quantity` is an exact decimal in a text; null: min, max, avg and latest of no events."""

    start: AwareDatetime
    end: AwareDatetime
    dimensions: dict[str, Any]
    events: int
    quantity: str | None


class RefusedEvent(BaseModel):
    index: int
    code: str
    message: str


class Result(BaseModel):
    """One line of output: `error` alone for a case that cannot be read, else all the others."""

    windows: list[WindowResult] | None = None
    rejected: list[RefusedEvent] | None = None
    duplicates: int | None = None
    conflicts: int | None = None
    left_out: int | None = Field(None, description="fresh, but outside the period, of another type, or filtered")
    error: str | None = None


@app.command("simulate")
def simulate_command(
    schema: bool = typer.Option(False, "--schema", help="print the JSON Schemas of a case and of a result"),
) -> None:
    """Read cases as JSON lines on standard input; write one result line each. Exit code 1 when a case was no case."""
    if schema:
        print(json.dumps({"case": Case.model_json_schema(), "result": Result.model_json_schema()}, indent=2))
        return
    failed = False
    for line in sys.stdin.buffer:
        if line.strip():
            result = _result(line)
            failed = failed or "error" in result
            print(json.dumps(result, ensure_ascii=False), flush=True)
    if failed:
        raise typer.Exit(1)


class _Raw(msgspec.Struct):
    """The bytes of each event's data: numbers are read by the code that reads them in production."""

    events: list[dict[str, msgspec.Raw]]


def _result(line: bytes) -> dict[str, Any]:
    try:
        case = Case.model_validate_json(line)
        raw = msgspec.json.decode(line, type=_Raw)
        found = simulate(
            case.meter.meter(),
            [_stamped(event, case, said.get("data")) for event, said in zip(case.events, raw.events, strict=True)],
            case.period.start.astimezone(UTC),
            case.period.end.astimezone(UTC),
            case.window,
            time_zone(case.time_zone),
            level=case.level,
        )
    except ValidationError as error:
        return {"error": problems(error, "case")}
    except (Usage, msgspec.MsgspecError) as error:
        return {"error": str(error)}
    return {
        "windows": [
            {
                "start": row.start.isoformat(),
                "end": row.end.isoformat(),
                "dimensions": json.loads(row.dimensions) if row.dimensions else {},
                "events": row.events,
                "quantity": None if row.quantity is None else f"{row.quantity:f}",
            }
            for row in found.rows
        ],
        "rejected": [{"index": one.index, "code": one.code, "message": one.message} for one in found.rejected],
        "duplicates": found.duplicates,
        "conflicts": found.conflicts,
        "left_out": found.left_out,
    }


def _stamped(event: EventEntry, case: Case, data: msgspec.Raw | None) -> StampedEvent:
    return StampedEvent(
        id=event.id,
        source=event.source,
        type=event.type if event.type is not None else case.meter.event_type,
        subject=event.subject,
        time=event.time.astimezone(UTC),
        project=PROJECT,
        live=True,
        ingestedat=event.time.astimezone(UTC),
        ingestid="simulated",
        data=msgspec.Raw(b"null") if data is None else data,
        unmetered=event.type is not None and event.type != case.meter.event_type,
    )
