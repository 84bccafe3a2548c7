"""Is this unusual for this key? Pure: a state and what is new in, the next state and findings out.

`observe` takes one record of key activity, `advance` says how late it is: minutes that every process has had time to
tell of are judged, and a key that has stopped is noticed. The same records and times give the same findings, with
the same ids. Each key is compared with itself alone; nothing is said before enough of it has been seen.

new address    not used in 14 days; the first hour is learned silently, and so is a key with very many addresses
spike          events of a minute far above the median of the key's last minutes (median absolute deviation)
silent         no event for longer than its usual gaps, the longest of the last 14 days among them
failure burst  most calls of a minute failed, far more than on average
"""

from __future__ import annotations

import zlib
from statistics import median

from msgspec.structs import replace

from services.aggregator.watch.state import KeyState, Minute
from shared.contracts.messages.activity import UNKNOWN, KeyActivity
from shared.contracts.messages.anomaly import Anomaly, Class, finding_id, instant

GRACE_S = 30  # after a minute's end: processes publish within seconds
REMEMBERED_DAYS = 14
DAY = 24 * 60

LEARN_MINUTES = 60
CROWD = 256  # a key with so many addresses is used by the public: another one says nothing
MOST_NEW = 5  # of one record

SAMPLES = 120
ENOUGH = 20  # samples or gaps, before anything is compared with them
SPIKE_FLOOR, SPIKE_TIMES, SPIKE_DEVIATIONS = 100, 5, 8
MAD_TO_SIGMA = 1.4826  # of a normal distribution
SILENCE_FLOOR, SILENCE_TIMES, SILENCE_OF_LONGEST = 10, 3, 1.5
BURST_FLOOR, BURST_TIMES, BURST_SMOOTHING = 20, 8, 20

AGAIN_MINUTES = 60  # the same class of one key is not told more often
SEEN = 64
OUR_FAULT = frozenset({"unavailable", "internal", "499"})  # 499: the client hung up

Found = tuple[KeyState, list[Anomaly]]


def observe(state: KeyState, activity: KeyActivity) -> Found:
    """Take one record; one that was taken before changes nothing."""
    minute = int(activity.minute.timestamp()) // 60
    mark = f"{minute}.{zlib.crc32(activity.process_id.encode()):08x}"
    if mark in state.seen:
        return state, []
    state = replace(
        state,
        project_id=activity.project_id,
        organisation_id=activity.organisation_id,
        seen=(*state.seen[1 - SEEN :], mark),
    )
    state, findings = _addresses(state, activity, minute)
    if minute > state.judged:  # what comes later than that is too late to be judged
        state = replace(state, waiting=state.waiting | {minute: _more(state.waiting.get(minute, Minute()), activity)})
    return state, findings


def advance(state: KeyState, key_id: str, now_s: float) -> Found:
    """It is `now_s` (seconds since the epoch) where this key's records come from."""
    findings: list[Anomaly] = []
    for minute in sorted(state.waiting):
        if (minute + 1) * 60 + GRACE_S > now_s:
            break
        state, found = _judge(state, key_id, minute, state.waiting[minute])
        findings += found
    state, found = _silence(state, key_id, int(now_s // 60))
    return state, findings + found


def _more(known: Minute, activity: KeyActivity) -> Minute:
    codes = dict(known.codes)
    for code, calls in activity.failed.items():
        codes[code] = codes.get(code, 0) + calls
    failed = sum(calls for code, calls in codes.items() if code not in OUR_FAULT)
    return Minute(known.events + activity.accepted, known.calls + activity.calls, failed, codes)


def _addresses(state: KeyState, activity: KeyActivity, minute: int) -> Found:
    """Each address of the record is known from now on."""
    if activity.key_id == UNKNOWN or not activity.addresses:
        return state, []
    today = minute // DAY
    known = {address: day for address, day in state.addresses.items() if day > today - REMEMBERED_DAYS}
    schemes = dict(state.schemes)
    findings: list[Anomaly] = []
    for address in activity.addresses:
        scheme = address.partition(".")[0]
        learning = minute < schemes.setdefault(scheme, minute) + LEARN_MINUTES
        crowded = activity.addresses_overflow or len(known) >= CROWD
        if address not in known and not (learning or crowded) and len(findings) < MOST_NEW:
            text = f"a client address that this key has not used in {REMEMBERED_DAYS} days"
            found = _finding(Class.NEW_ADDRESS, state, activity.key_id, minute, 1, len(known), text, address)
            findings.append(found)
        if address in known or not crowded:
            known[address] = max(today, known.get(address, today))
    return replace(state, addresses=known, schemes=schemes), findings


def _judge(state: KeyState, key_id: str, minute: int, seen: Minute) -> Found:
    """The minute is complete. Unusual ones are learned like others: what lasts becomes the usual."""
    findings: list[Anomaly] = []
    state = replace(state, judged=minute, waiting={m: each for m, each in state.waiting.items() if m != minute})

    burst = seen.failed >= BURST_FLOOR and seen.failed * 2 > seen.calls and seen.failed > BURST_TIMES * state.failing
    worst = max(seen.codes.items(), key=lambda each: (each[0] not in OUR_FAULT, each[1]), default=("", 0))[0]
    text = f"{seen.failed} of {seen.calls} calls failed in one minute, most with {worst}"
    found = _finding(Class.FAILURE_BURST, state, key_id, minute, seen.failed, round(state.failing), text)
    state = _tell(state, found, minute, burst, findings)
    state = replace(state, failing=state.failing + (seen.failed - state.failing) / BURST_SMOOTHING)
    if not seen.events:
        return state, findings

    usual = int(median(state.events)) if state.events else 0
    spike = len(state.events) >= ENOUGH and seen.events > _spike_limit(state.events)
    text = f"{seen.events} events in one minute; usual are {usual}"
    state = _tell(
        state, _finding(Class.SPIKE, state, key_id, minute, seen.events, usual, text), minute, spike, findings
    )
    return _sent(replace(state, events=(*state.events[1 - SAMPLES :], seen.events)), minute), findings


def _spike_limit(events: tuple[int, ...]) -> float:
    middle = median(events)
    deviation = MAD_TO_SIGMA * median(abs(each - middle) for each in events)
    return max(SPIKE_FLOOR, SPIKE_TIMES * middle, middle + SPIKE_DEVIATIONS * deviation)


def _sent(state: KeyState, minute: int) -> KeyState:
    """Events came: how long had it been?"""
    gap = minute - state.last
    if state.last == 0 or gap <= 0:
        return replace(state, last=max(state.last, minute))
    today = minute // DAY
    longest = {day: each for day, each in state.longest_gap.items() if day > today - REMEMBERED_DAYS}
    longest[today] = max(gap, longest.get(today, 0))
    lasting = _without(state, Class.SILENT)
    return replace(state, last=minute, gaps=(*state.gaps[1 - SAMPLES :], gap), longest_gap=longest, lasting=lasting)


def _silence(state: KeyState, key_id: str, now: int) -> Found:
    """`now` is the minute that runs. Told once, until events come again."""
    silent_for = now - state.last
    if Class.SILENT in state.lasting or len(state.gaps) < ENOUGH or silent_for <= SILENCE_FLOOR:
        return state, []
    usual = int(median(state.gaps))
    longest = max(state.longest_gap.values(), default=0)
    waiting = any(each.events for each in state.waiting.values())
    if waiting or silent_for <= max(SILENCE_TIMES * usual, SILENCE_OF_LONGEST * longest):
        return state, []
    text = f"no event since {instant(state.last):%Y-%m-%d %H:%M} UTC; usually there is one every {usual} min"
    findings: list[Anomaly] = []
    found = _finding(Class.SILENT, state, key_id, state.last + 1, silent_for, usual, text)
    return _tell(state, found, state.last + 1, True, findings), findings


def _tell(state: KeyState, found: Anomaly, minute: int, unusual: bool, findings: list[Anomaly]) -> KeyState:
    """Add the finding unless what it tells of goes on since the minute before, or was told within the hour."""
    if not unusual:
        return replace(state, lasting=_without(state, found.found))
    if found.found not in state.lasting and minute - state.told.get(found.found, -DAY) >= AGAIN_MINUTES:
        findings.append(found)
        state = replace(state, told=state.told | {found.found.value: minute})
    return replace(state, lasting=(*_without(state, found.found), found.found))


def _without(state: KeyState, over: Class) -> tuple[Class, ...]:
    return tuple(each for each in state.lasting if each is not over)


def _finding(
    kind: Class,
    state: KeyState,
    key_id: str,
    minute: int,
    observed: int,
    usual: int,
    text: str,
    address: str | None = None,
) -> Anomaly:
    return Anomaly(
        id=finding_id(kind, key_id, minute, address or ""),
        found=kind,
        key_id=key_id,
        project_id=state.project_id,
        organisation_id=state.organisation_id,
        minute=instant(minute),
        observed=observed,
        usual=usual,
        text=text,
        address=address,
    )
