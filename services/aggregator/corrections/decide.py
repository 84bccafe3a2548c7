"""What corrections do to one event, in the order in which they stand in the log. Pure.

    in an open month    the old readings leave the windows, the new ones join them
    after the seal      the windows stay; signed adjustments lead from what is billed to what now stands: those that are
                        not billed yet are taken back, so that nobody is billed for a mistake and its correction
    no meter counted it nothing changes, and the correction is remembered

An amend after an amend replaces it. A void is final.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import localcontext
from typing import Literal, NamedTuple

import msgspec

from shared.contracts.messages.event import decode_content
from shared.domain.correction import Correction
from shared.domain.errors import Rejected
from shared.domain.identity import read_data
from shared.domain.meter import Reading
from shared.usage.backfill import View
from shared.usage.event import EventReader, UsageEvent
from shared.usage.fold import WindowKey
from shared.usage.parts import SUMS, Parts
from shared.usage.segment import Disposition

AppliedAs = Literal["window", "adjustment", "nothing"]
EXTREMES = frozenset(("min", "max", "latest"))
"""Aggregations from which an event cannot be subtracted: what was second is not kept."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A correction that has taken no effect yet. `stored`: it was parked by an earlier batch; who sent it stands there.

    `source`, `key_id`: who sent it.
    """

    key: bytes
    correction: Correction
    organisation_id: str
    project_id: str
    live: bool
    subject: str
    event_id: str
    partition: int
    offset: int
    source: str = ""
    key_id: str = ""
    stored: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """The event that is corrected. `event` is as it was sent, and `value` its record's value.

    `uncounted`: it was accepted without a meter, so that nothing of it is in any sum.
    """

    value: bytes
    event: UsageEvent
    disposition: Disposition
    partition: int
    offset: int
    uncounted: bool = False
    view: View | None = None  # how its windows know it, where that is not as every event of today
    meterless: bool = False  # no meter counted it when it came; those that were back-filled have

    def readings(self, data: bytes, reader: EventReader) -> tuple[Reading, ...]:
        """What it says with this data. Raises Rejected (`bad_value`)."""
        content = msgspec.structs.replace(decode_content(self.value), data=read_data(data))
        if self.view is None:
            return reader.check(content).readings
        if self.disposition is Disposition.ADJUSTMENT:
            return self.view.late(content).readings
        return (self.view.uncounted(content) if self.meterless else self.view.counted(content)).readings


@dataclass(frozen=True, slots=True)
class Applied:
    """A correction of the target that has taken effect. `data` None: a void."""

    data: bytes | None
    applied_as: AppliedAs


class Signed(NamedTuple):
    """What an adjustment says of a meter, without its sign; equal ones cancel out."""

    meter_id: str
    meter_version: int
    dimensions: str
    value: object  # Decimal
    distinct: bytes

    @classmethod
    def of(cls, reading: Reading) -> Signed:
        return cls(reading.meter.id, reading.meter.version, reading.dimensions, reading.value, reading.distinct)


@dataclass(frozen=True, slots=True)
class Adjustment:
    """A row of usage.adjustment that stands."""

    id: int
    said: Signed
    sign: int
    billed: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one correction: applied as something, or refused with a code and an explanation."""

    pending: Pending
    applied_as: AppliedAs | None = None
    code: str | None = None
    explanation: str | None = None


@dataclass(slots=True)
class Decision:
    """Outcomes of one target's corrections, and what they change.

    `windows`: what is added to each, which may be negative. `dirty`: windows to look at again. `taken_back`: ids of
    adjustments; `adjustments`: new ones, (reading, sign). Both are made by the last correction that was applied.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    windows: dict[WindowKey, Parts] = field(default_factory=dict)
    dirty: set[WindowKey] = field(default_factory=set)
    taken_back: list[int] = field(default_factory=list)
    adjustments: list[tuple[Signed, int]] = field(default_factory=list)


def decide(
    target: Target,
    applied: Sequence[Applied],
    pending: Sequence[Pending],
    adjustments: Sequence[Adjustment],
    reader: EventReader,
    *,
    sealed: bool,
) -> Decision:
    """`applied` and `pending` in order; `adjustments`: those of the target that stand; `sealed`: its month is.

    Raises nothing: what cannot be is refused.
    """
    found = Decision()
    try:
        state = _State(target, applied, reader, sealed)
    except Rejected as error:  # what was taken then is no event today: nobody knows what to subtract
        why = f"an earlier amend of its target cannot be read: {error.message}"
        return Decision([Outcome(one, code="target_unreadable", explanation=why) for one in pending])
    before = state.readings
    for one in pending:
        found.outcomes.append(state.take(one))
    applied_now = [outcome for outcome in found.outcomes if outcome.applied_as is not None]
    if not applied_now:
        return found
    if state.applied_as == "window":
        _move(target.event, before, state.readings, found)
    elif state.applied_as == "adjustment":
        _adjust(state.in_windows, state.readings, adjustments, found)
    return found


def amended_readings(target: Target, data: bytes, reader: EventReader) -> tuple[Reading, ...]:
    """What the target says with this data. Raises Rejected (`bad_value`)."""
    return target.readings(data, reader)


def only_sealed(readings: Sequence[Reading]) -> bool:
    """Whether every one is of a meter that takes nothing after the seal."""
    return bool(readings) and all(reading.meter.late == "reject" for reading in readings)


class _State:
    """What stands of the target: `readings` now, `in_windows` those that its windows hold."""

    def __init__(self, target: Target, applied: Sequence[Applied], reader: EventReader, sealed: bool) -> None:
        self.target, self.reader = target, reader
        late = target.disposition is Disposition.ADJUSTMENT
        self.applied_as: AppliedAs = "adjustment" if late or (sealed and target.event.live) else "window"
        if target.uncounted:
            self.applied_as = "nothing"
        sent = () if target.uncounted else target.event.readings
        self.in_windows: tuple[Reading, ...] = () if late else sent
        self.readings = sent
        self.voided = False
        for one in applied:
            self.voided = self.voided or one.data is None
            self.readings = self._with(one.data)
            if one.applied_as == "window":
                self.in_windows = self.readings

    def _with(self, data: bytes | None) -> tuple[Reading, ...]:
        """Raises Rejected."""
        if data is None or self.target.uncounted:
            return ()
        return amended_readings(self.target, data, self.reader)

    def take(self, one: Pending) -> Outcome:
        if self.target.disposition is Disposition.CORRECTION:
            return Outcome(one, code="not_correctable", explanation="its target is itself a correction: those stand")
        if self.voided:
            return Outcome(one, code="voided", explanation="its target is void already, which is final")
        try:
            readings = self._with(one.correction.data)
        except Rejected as error:
            return Outcome(one, code=error.code, explanation=error.message)
        if self.applied_as == "adjustment" and only_sealed((*self.readings, *readings)):
            return Outcome(one, code="sealed", explanation=SEALED)
        self.readings, self.voided = readings, one.correction.data is None
        return Outcome(one, applied_as=self.applied_as)


SEALED = "its month is sealed, and its meters take nothing after that (late: reject)"


def _move(event: UsageEvent, before: Sequence[Reading], after: Sequence[Reading], found: Decision) -> None:
    """Out of the windows of the old readings, into those of the new ones."""
    leaving, joining = Counter(map(Signed.of, before)), Counter(map(Signed.of, after))
    with localcontext(SUMS):
        for reading in before:
            if leaving[Signed.of(reading)] > joining[Signed.of(reading)]:
                key = _window(event, reading)
                found.windows.setdefault(key, Parts()).remove(reading, event.key, event.time)
        for reading in after:
            if joining[Signed.of(reading)] > leaving[Signed.of(reading)]:
                parts = found.windows.setdefault(_window(event, reading), Parts())
                parts.add(reading, event.key, event.time, event.id)
    # Also those that only gain: who is looking at their events right now must not miss it.
    changed = {(_window(event, reading), reading.meter.aggregation) for reading in (*before, *after)}
    found.dirty = {key for key, aggregation in changed if aggregation in EXTREMES and key in found.windows}


def _window(event: UsageEvent, reading: Reading) -> WindowKey:
    return WindowKey(
        *(event.organisation_id, event.project_id, event.live, event.subject),
        *(reading.meter.id, reading.meter.version, reading.dimensions, event.hour),
    )


def _adjust(
    in_windows: Sequence[Reading], after: Sequence[Reading], standing: Sequence[Adjustment], found: Decision
) -> None:
    """From what the windows and billed adjustments say to what stands now."""
    has: Counter[Signed] = Counter(Signed.of(one) for one in in_windows if one.meter.late != "reject")
    for row in standing:
        if row.billed:
            has[row.said] += row.sign
        else:
            found.taken_back.append(row.id)
    wanted: Counter[Signed] = Counter(Signed.of(one) for one in after if one.meter.late != "reject")
    for said in has.keys() | wanted.keys():
        more = wanted[said] - has[said]
        found.adjustments += [(said, 1 if more > 0 else -1)] * abs(more)
    found.adjustments.sort(key=lambda row: (row[0][:3], row[1], str(row[0].value), row[0].distinct))


def merged(decisions: Sequence[Decision]) -> Mapping[WindowKey, Parts]:
    """The windows of many targets, added up."""
    found: dict[WindowKey, Parts] = {}
    with localcontext(SUMS):
        for decision in decisions:
            for key, parts in decision.windows.items():
                if key in found:
                    found[key].merge(parts)
                else:
                    found[key] = parts
    return found
