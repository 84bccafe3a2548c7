"""The archive folded again, against the windows as they stand. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import localcontext
from typing import Any, NamedTuple

from services.aggregator.reconcile.finding import MOST_NAMED, Finding, FindingClass
from shared.domain.identity import Fingerprint
from shared.usage.fold import WindowKey
from shared.usage.parts import SUMS, Parts

_NOTHING = Parts()
_NUMBERS = ("count", "sum", "fingerprint", "minimum", "maximum", "latest", "moment")


@dataclass(frozen=True, slots=True)
class Difference:
    """One window; None where there is none."""

    key: WindowKey
    stored: Parts | None
    archive: Parts | None

    @property
    def parts(self) -> list[str]:
        """Names of the parts that differ."""
        one, other = self.stored or _NOTHING, self.archive or _NOTHING
        found = [name for name in _NUMBERS if getattr(one, name) != getattr(other, name)]
        return found + (["distinct"] if _distinct(one) != _distinct(other) else [])


class EventRef(NamedTuple):
    """An event of the archive that belongs into a window."""

    key: bytes
    name: str
    partition: int
    offset: int


def compare(stored: Iterable[tuple[WindowKey, Parts]], archive: dict[WindowKey, Parts]) -> Iterator[Difference]:
    """Every window that differs. `archive` is used up: what no stored window takes from it is missing."""
    for key, parts in stored:
        other = archive.pop(key, None)
        if parts != other:  # nearly never: look closely, at what is spelled otherwise
            difference = Difference(key, parts, other)
            if difference.parts:
                yield difference
    for key, parts in archive.items():
        difference = Difference(key, None, parts)
        if difference.parts:
            yield difference


def without_extremes(stored: Parts, archive: Parts | None) -> Parts:
    """A window whose extremes are to be looked at again, with those of the archive: they say nothing until then."""
    other = archive or _NOTHING
    return replace(stored, minimum=other.minimum, maximum=other.maximum, latest=other.latest)


def _distinct(parts: Parts) -> dict[bytes, int]:
    return {digest: events for digest, events in (parts.distinct or {}).items() if events}


@dataclass(frozen=True, slots=True)
class Named:
    """`missing`: not in the window. `surplus`: in it once too often. Empty where sums cannot tell which."""

    missing: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()


def name_ids(difference: Difference, events: Sequence[EventRef]) -> Named:
    """Which of the window's events are missing or surplus, told from the difference of the fingerprints.

    Exact (up to a collision of 64 bits) for one event too few or too many, one in another's place, or two; a window
    that is missing lacks them all. For more the sums cannot tell which.
    """
    if difference.stored is None or difference.stored.count == 0:
        return Named(missing=tuple(event.name for event in events[:MOST_NAMED]))
    stored, archive = difference.stored, difference.archive or _NOTHING
    wanted = _minus(stored.fingerprint, archive.fingerprint)
    by_hash = {Fingerprint().with_key(event.key): event for event in events}
    match stored.count - archive.count:
        case -1 if (event := by_hash.get(_minus(Fingerprint(), wanted))) is not None:
            return Named(missing=(event.name,))
        case 1 if (event := by_hash.get(wanted)) is not None:
            return Named(surplus=(event.name,))
        case 0 if wanted != Fingerprint():
            for hashed, event in by_hash.items():
                if (twice := by_hash.get(hashed + wanted)) is not None:
                    return Named(missing=(event.name,), surplus=(twice.name,))
        case (-2 | 2) as count:
            sums = wanted if count > 0 else _minus(Fingerprint(), wanted)
            for hashed, event in by_hash.items():
                if (other := by_hash.get(_minus(sums, hashed))) is not None and other is not event:
                    names = (event.name, other.name)
                    return Named(surplus=names) if count > 0 else Named(missing=names)
    return Named()


def _minus(one: Fingerprint, other: Fingerprint) -> Fingerprint:
    return Fingerprint(one.high - other.high, one.low - other.low)


def finding(difference: Difference, named: Named, *, sealed: bool) -> Finding:
    """What is told of a window that differs."""
    key = difference.key
    if sealed:
        found = FindingClass.WINDOW_SEALED
    elif difference.stored is None:
        found = FindingClass.WINDOW_MISSING
    elif difference.archive is None:
        found = FindingClass.WINDOW_SURPLUS
    else:
        found = FindingClass.WINDOW_DIFFERS
    one, other = difference.stored or _NOTHING, difference.archive or _NOTHING
    text = (
        f"{key.meter_id} of {key.subject} in {key.project_id}, hour {key.hour.isoformat()}: the window says "
        f"{one.count} events, sum {one.sum}; the archive {other.count}, sum {other.sum} ({', '.join(difference.parts)})"
    )
    if named.missing:
        text += f"; missing: {', '.join(named.missing)}"
    if named.surplus:
        text += f"; counted twice: {', '.join(named.surplus)}"
    if sealed:
        text += "; its month is sealed, so nothing is changed: a person decides"
    return Finding(
        f"window:{window_text(key)}",
        found,
        text,
        organisation_id=key.organisation_id,
        project_id=key.project_id,
        meter_id=key.meter_id,
        hour=key.hour,
        details={
            "window": window_text(key),
            "differs": difference.parts,
            "stored": parts_document(difference.stored),
            "archive": parts_document(difference.archive),
            "missing": list(named.missing),
            "surplus": list(named.surplus),
        },
    )


def window_text(key: WindowKey) -> str:
    """The key in one line, for people and as the finding's name."""
    mode = "live" if key.live else "test"
    dimensions = f" {key.dimensions}" if key.dimensions else ""
    return (
        f"{key.project_id}/{mode}/{key.subject}/{key.meter_id}.{key.meter_version}{dimensions} {key.hour.isoformat()}"
    )


def parts_document(parts: Parts | None) -> dict[str, Any] | None:
    """For the audit and for findings: exact numbers as texts."""
    if parts is None:
        return None
    found: dict[str, Any] = {
        "count": parts.count,
        "sum": str(parts.sum),
        "fingerprint": list(parts.fingerprint),
    }
    for name in ("minimum", "maximum", "moment"):
        if (value := getattr(parts, name)) is not None:
            found[name] = str(value)
    if parts.latest is not None:
        found["latest"] = [parts.latest[0].isoformat(), parts.latest[1], str(parts.latest[2])]
    if distinct := _distinct(parts):
        found["distinct_values"] = len(distinct)
    return found


class LateKey(NamedTuple):
    """One row of usage.adjustment."""

    key: bytes
    meter_id: str
    meter_version: int


LateValue = tuple[Any, ...]
"""Organisation, project, subject, dimensions, hour, value, time, event id, digest, partition, offset."""


def compare_late(stored: Mapping[LateKey, LateValue], archive: Mapping[LateKey, LateValue]) -> list[Finding]:
    """Adjustments: one row for each late event and meter, saying what the event says."""
    findings = []
    for key in sorted(stored.keys() | archive.keys()):
        one, other = stored.get(key), archive.get(key)
        if one == other:
            continue
        value = other or one
        assert value is not None
        what = "is missing" if one is None else "is of no late event" if other is None else "differs from its event"
        text = f"the adjustment of {key.meter_id} for late event {value[7]} in {value[1]} {what}"
        findings.append(
            Finding(
                f"adjustment:{key.key.hex()}:{key.meter_id}:{key.meter_version}",
                FindingClass.ADJUSTMENT_DIFFERS,
                text,
                *(value[0], value[1], key.meter_id, value[4], value[9], value[10], value[10]),
                details={"stored": _texts(one), "archive": _texts(other)},
            )
        )
    return findings


def _texts(value: LateValue | None) -> list[str] | None:
    return None if value is None else [each.hex() if isinstance(each, bytes) else str(each) for each in value]


def merge(into: dict[WindowKey, Parts], deltas: Mapping[WindowKey, Parts]) -> None:
    """Add deltas of other events."""
    with localcontext(SUMS):
        for key, parts in deltas.items():
            there = into.get(key)
            if there is None:
                into[key] = parts
            else:
                there.merge(parts)
