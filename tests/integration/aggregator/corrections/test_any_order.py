"""Any events, repetitions and corrections in any order and batches, with a seal somewhere: all eight aggregations are
those of a second count that is simple on purpose, and the adjustments lead from what was sealed to what stands."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from shared.domain.meter import AGGREGATIONS
from shared.domain.period import Month
from tests.integration.aggregator.test_aggregations import END, METERS, START, apply_meters, gauge, usage
from tests.support.corrections import amend, clean, dirty, void
from tests.support.simple_usage import Fix, Simple, answer, standing
from tests.support.usage import Counting, counting, seal_month

OCTOBER = Month(2026, 10)
Sent = Simple | Fix
Reading = tuple[Any, ...]


def subject(id: str) -> str:
    return f"s{int(id) % 4}"


def plan(chance: random.Random) -> list[tuple[str, Sent]]:
    """What is sent, each with its own id: a repetition has one that was sent before."""
    minutes = int((END - START) / timedelta(minutes=1))

    def value() -> Fraction:
        return Fraction(chance.randrange(-500, 500), 100)

    def event(number: int) -> Simple:
        time = START + timedelta(minutes=chance.randrange(-1500, minutes) // 60 * 60 + chance.randrange(3))
        return Simple(f"{number:03}", time, value(), chance.choice("xyz"))

    events = [event(number) for number in range(80)]
    fixes: list[tuple[str, Sent]] = []
    for number in range(70):
        target = chance.choice(events).id
        fixed = Fix(target) if chance.random() < 0.3 else Fix(target, value(), chance.choice("xyz"))
        fixes.append((f"fix-{number}", fixed))
    sent: list[tuple[str, Sent]] = [(one.id, one) for one in events] + fixes
    sent += chance.sample(sent, 40)
    chance.shuffle(sent)
    return sent


def encoded(id: str, one: Sent) -> bytes:
    if isinstance(one, Simple):
        return gauge(one, subject=subject(one.id))
    of_target = {"subject": subject(one.target), "time": END}
    if one.value is None:
        return void(id, one.target, **of_target)
    number = str(Decimal(one.value.numerator) / one.value.denominator)
    return amend(id, one.target, {"value": number, "text": one.text}, **of_target)


def first_of_each(sent: Sequence[tuple[str, Sent]]) -> list[Sent]:
    found: dict[str, Sent] = {}
    for id, one in sent:
        found.setdefault(id, one)
    return list(found.values())


async def apply(count: Counting, sent: Sequence[tuple[str, Sent]], chance: random.Random) -> None:
    left = list(sent)
    while left:
        size = chance.randrange(1, 25)
        for partition in (0, 1):  # that of the subject
            mine = [
                encoded(id, one)
                for id, one in left[:size]
                if int(one.id if isinstance(one, Simple) else one.target) % 2 == partition
            ]
            if mine:
                await count.apply(*mine, partition=partition)
        del left[:size]
        if chance.random() < 0.3:
            await clean(count)
    await clean(count)
    assert await dirty(count) == 0


def inside(events: Sequence[Simple]) -> list[Simple]:
    return [one for one in events if START <= one.time < END]


@pytest.mark.parametrize("seed", range(3))
async def test_all_aggregations_say_what_stands_and_adjustments_what_has_changed_since_the_seal(
    database_url: str, seed: int
) -> None:
    chance = random.Random(seed)
    sent = plan(chance)
    half = chance.randrange(len(sent) // 3, len(sent) * 2 // 3)
    await apply_meters(database_url, *METERS)
    async with counting(database_url) as count:
        await apply(count, sent[:half], chance)
        sealed = standing(first_of_each(sent[:half]))
        await _agree(count, sealed)
        await seal_month(database_url, OCTOBER, "acme")

        await apply(count, sent[half:], chance)
        final = standing(first_of_each(sent))
        before = [one for one in final if one.time < START]  # September is open: its level is what stands
        await _agree(count, before + inside(sealed))
        for aggregation in AGGREGATIONS:
            meter = f"m_{aggregation}"
            assert await _priced_again(count, meter, inside(sealed)) == _readings(meter, inside(final)), meter
        letters = await count.dispositions()
        repeated = len(sent) - len(first_of_each(sent))
        assert (letters.count("k"), letters.count("d")) == (70, repeated)
        assert await count.rows("SELECT 1 FROM usage.correction WHERE state = 'parked'") == []


async def _agree(count: Counting, events: list[Simple]) -> None:
    found = await usage(count)
    for aggregation in AGGREGATIONS:
        expected = answer(aggregation, events, START, END)
        assert expected is not None
        assert Fraction(found[f"m_{aggregation}"].quantity) == expected, aggregation


def _readings(meter: str, events: Sequence[Simple]) -> dict[str, Reading]:
    return {one.id: _reading(meter, one) for one in events}


def _reading(meter: str, one: Simple) -> Reading:
    grouped = meter in ("m_sum", "m_unique_count")
    dimensions = json.dumps({"kind": one.text}, separators=(",", ":")) if grouped else ""
    digest = hashlib.blake2b(json.dumps(one.text).encode(), digest_size=16).hexdigest()
    value = one.value if meter not in ("m_count", "m_unique_count") else Fraction(1)
    return dimensions, value, digest if meter == "m_unique_count" else None


async def _priced_again(count: Counting, meter: str, sealed: Sequence[Simple]) -> dict[str, Reading]:
    """What was sealed, less what left it, and what joined it: as whoever bills the adjustments will do it."""
    found = _readings(meter, sealed)
    rows = await count.rows(
        "SELECT sign, event_id, dimensions, value, replace(digest::text, '-', '') FROM usage.adjustment "
        "WHERE meter_id = %s AND taken_back_by IS NULL ORDER BY sign, id",
        meter,
    )
    for sign, id, dimensions, value, digest in rows:
        said = (dimensions, Fraction(value), digest)
        if sign < 0:
            assert found.pop(id) == said
        else:
            assert id not in found
            found[id] = said
    return found
