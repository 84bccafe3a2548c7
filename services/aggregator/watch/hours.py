"""Is this hour unusual for this series? Pure: a state and what is new in, the next state and findings out.

`observe` takes one record of usage.windows.v1, `advance` says how late it is where they come from: an hour is judged
once windows of the next one are there. The same records and times give the same findings, with the same ids. Exact
decimals throughout.

hour spike         far above the median of the last two days (median absolute deviation), and above their largest hour
hour drop          far below the median, and below half of their smallest hour: nights and weekends are known
negative quantity  of a billable meter, in an hour that is over
late change        of an hour long over, by a tenth or more of what it was

An hour is told once of each class, and again each time it has doubled.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal, localcontext
from statistics import median

from msgspec import UNSET
from msgspec.structs import replace

from services.aggregator.watch.hours_state import Hour, Series, SeriesState
from shared.contracts.messages.anomaly import AboutWindow, Anomaly, Class, finding_id
from shared.contracts.messages.window import WindowMessage
from shared.domain.meter import MAX_DIGITS

HOUR_S = 3600
GRACE_S = 600  # after an hour's end
KEPT = 48  # hours
MOST = 2 * KEPT  # with late ones of older hours

ENOUGH, ENOUGH_USED = 24, 12  # hours known, and hours with events, before anything is compared with them
FLOOR = 50  # events: fewer than that may be chance
SPIKE_TIMES, DEVIATIONS, ABOVE_LARGEST = 5, 8, Decimal("1.5")
DROP_TIMES, BELOW_SMALLEST = 5, 2
MAD_TO_SIGMA = Decimal("1.4826")  # of a normal distribution

LONG_OVER_S = 6 * HOUR_S
LATE_FLOOR, LATE_SHARE = 10, Decimal("0.1")
SIZES = Decimal("1e-6")
TIMES_MORE = 2  # so much larger than it was told: told again

ADDS_UP = ("count", "sum", "unique_count")

Found = tuple[SeriesState, list[Anomaly]]


def observe(state: SeriesState, series: Series, window: WindowMessage) -> Found:
    """Take one record; a revision that is not higher than the one known changes nothing."""
    at = int(window.hour.timestamp())
    hour = at // HOUR_S
    known = state.hours.get(hour)
    if known is not None and known.revision >= window.revision:
        return state, []
    value = window.quantity if window.aggregation in ADDS_UP and window.quantity is not None else str(window.count)
    late = window.updated_at.timestamp() >= at + HOUR_S + LONG_OVER_S
    if window.backfilled_before is not None and window.hour < window.backfilled_before:
        late = False  # the meter is younger than its hour: it counts what was there
    new = Hour(window.revision, window.count, value, window.quantity, window.count, value)
    if late:
        # Of an hour that is not known and was there before, nobody can tell what it was: it is learned as it is.
        before = known or (Hour(0, 0, "0", None, 0, "0") if window.revision == 1 else new)
        new = replace(new, base_count=before.base_count, base_value=before.base_value)
    state = replace(
        state,
        organisation_id=window.organisation_id,
        offset_s=at % HOUR_S,
        billable=window.billable,
        since=min(hour, state.since) if state.since else hour,
        judged=state.judged or hour - 1,
        hours=_bounded(state.hours | {hour: new}),
    )
    findings: list[Anomaly] = []
    if late:
        state = _late(state, series, hour, findings)
    if hour <= state.judged:
        state = _negative(state, series, hour, findings)
    return state, findings


def advance(state: SeriesState, series: Series, now_s: float) -> tuple[SeriesState | None, list[Anomaly]]:
    """It is `now_s` where this series' records come from. None: nothing for two days, so it is forgotten."""
    findings: list[Anomaly] = []
    last = int(now_s - GRACE_S - state.offset_s) // HOUR_S - 1  # the last hour that may be judged
    if state.judged < last - KEPT:
        state = replace(state, judged=last - KEPT)
    while state.judged < last:
        state = replace(state, judged=state.judged + 1)
        state = _stands_out(state, series, state.judged, findings)
        state = _negative(state, series, state.judged, findings)
    if max(state.hours, default=0) <= last - KEPT:
        return None, findings
    return state, findings


def due_s(state: SeriesState) -> float:
    """When the next hour is to be judged."""
    return (state.judged + 2) * HOUR_S + state.offset_s + GRACE_S


def _bounded(hours: dict[int, Hour]) -> dict[int, Hour]:
    return hours if len(hours) <= MOST else {hour: hours[hour] for hour in sorted(hours)[-MOST:]}


def _stands_out(state: SeriesState, series: Series, hour: int, findings: list[Anomaly]) -> SeriesState:
    """Unusual hours are learned like others: what lasts becomes the usual."""
    first = max(hour - KEPT, state.since)
    samples = [state.hours.get(each) for each in range(first, hour)]
    samples = [each for each in samples if each is None or Decimal(each.value) >= 0]  # credits are told as negative
    if len(samples) < ENOUGH or sum(each is not None for each in samples) < ENOUGH_USED:
        return state
    values = [Decimal(each.value) if each else Decimal(0) for each in samples]
    now = state.hours.get(hour)
    value, events = (Decimal(now.value), now.count) if now else (Decimal(0), 0)
    usual_events = int(median(each.count if each else 0 for each in samples))
    if value < 0:
        return state
    with localcontext(prec=3 * MAX_DIGITS):
        usual = median(values)
        deviation = MAD_TO_SIGMA * median(abs(each - usual) for each in values)
        spike = events >= FLOOR and value > max(
            SPIKE_TIMES * usual, usual + DEVIATIONS * deviation, ABOVE_LARGEST * max(values)
        )
        drop = usual_events >= FLOOR and value * DROP_TIMES < usual and value * BELOW_SMALLEST < min(values)
    if not spike and not drop:
        return state
    found = Class.HOUR_SPIKE if spike else Class.HOUR_DROP
    text = f"{series.meter_id} of {series.subject}: {value:f} in one hour; usual are {usual:f}"
    return _tell(state, series, hour, found, value, text, findings, usual=(usual_events, f"{usual:f}"))


def _negative(state: SeriesState, series: Series, hour: int, findings: list[Anomaly]) -> SeriesState:
    known = state.hours.get(hour)
    if known is None or known.quantity is None or not state.billable or (quantity := Decimal(known.quantity)) >= 0:
        return state
    text = f"{series.meter_id} of {series.subject}: {known.quantity} in one hour, though the meter is billed"
    return _tell(state, series, hour, Class.NEGATIVE_QUANTITY, -quantity, text, findings, usual=(0, None))


def _late(state: SeriesState, series: Series, hour: int, findings: list[Anomaly]) -> SeriesState:
    now = state.hours.get(hour)
    if now is None or max(now.count, now.base_count) < LATE_FLOOR:
        return state
    base = Decimal(now.base_value)
    with localcontext(prec=3 * MAX_DIGITS):
        share = abs(now.count - now.base_count) / Decimal(max(now.base_count, LATE_FLOOR))
        if base and now.base_count >= LATE_FLOOR:
            share = max(share, abs(Decimal(now.value) - base) / abs(base))
    if share < LATE_SHARE:
        return state
    text = (
        f"{series.meter_id} of {series.subject}: an hour long over has changed from {now.base_value} "
        f"({now.base_count} events) to {now.value} ({now.count})"
    )
    usual = (now.base_count, now.base_value)
    return _tell(state, series, hour, Class.LATE_CHANGE, share, text, findings, usual=usual)


def _tell(
    state: SeriesState,
    series: Series,
    hour: int,
    found: Class,
    size: Decimal,
    text: str,
    findings: list[Anomaly],
    *,
    usual: tuple[int, str | None],
) -> SeriesState:
    """Add the finding unless it was told of this hour, no larger than half of what it is now."""
    mark = f"{found.value}.{hour}"
    before = state.told.get(mark)
    if before is not None and size < TIMES_MORE * Decimal(before):
        return state
    known = state.hours.get(hour)
    findings.append(
        Anomaly(
            id=finding_id(found, _name(series), hour * 60, "" if before is None else f"{size:f}"),
            found=found,
            key_id=None,
            project_id=series.project_id,
            organisation_id=state.organisation_id,
            minute=datetime.fromtimestamp(hour * HOUR_S + state.offset_s, UTC),
            observed=known.count if known else 0,
            usual=usual[0],
            text=text,
            window=AboutWindow(
                subject=series.subject,
                meter_id=series.meter_id,
                meter_version=series.meter_version,
                dimensions=series.dimensions or UNSET,
                quantity=known.value if known else "0",
                usual_quantity=UNSET if usual[1] is None else usual[1],
            ),
        )
    )
    with localcontext(prec=3 * MAX_DIGITS):
        size = size.quantize(SIZES, ROUND_DOWN)  # a share has no end, and its double must be twice as large
    told = {each: said for each, said in state.told.items() if int(each.rpartition(".")[2]) in state.hours}
    return replace(state, told=told | {mark: f"{size:f}"})


def _name(series: Series) -> str:
    return "|".join((series.project_id, series.subject, series.meter_id, str(series.meter_version), series.dimensions))
