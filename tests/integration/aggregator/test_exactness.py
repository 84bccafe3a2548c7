"""Any order, repetition and batching of any events gives what a deliberately simple second count gives."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.domain.identity import identity_key
from tests.support.usage import batch, counting, stamped

START = datetime(2026, 10, 31, 17, 45, tzinfo=UTC)  # three quarters of an hour before India's midnight
examples = itertools.count()


@dataclass(frozen=True)
class Sent:
    """One record as a producer sends it; `tokens` None is no event at all."""

    id: int
    live: bool
    subject: str
    tokens: str | None
    minute: int

    def value(self, example: int) -> bytes:
        if self.tokens is None:
            return b"{"
        return stamped(
            str(self.id),
            source=f"example-{example}",
            live=self.live,
            subject=f"{self.subject}-{example}",
            data=b'{"tokens":%s}' % self.tokens.encode(),
            time=START + timedelta(minutes=self.minute),
        )


@dataclass
class SimpleCount:
    """The rules, told with a list and a dictionary: first identity counts, equal payload repeats, other conflicts."""

    first: dict[tuple[int, bool], tuple[str, Decimal]]
    windows: dict[tuple[str, str, bool, int], list[Decimal]]

    def take(self, sent: Sent) -> str:
        if sent.tokens is None:
            return "r"
        said = (sent.subject, Decimal(sent.tokens))
        standing = self.first.setdefault((sent.id, sent.live), said)
        if standing is not said:
            return "d" if standing == said else "x"
        # India's hours start at minute 30 of a UTC hour; START is at minute 45.
        hour = (sent.minute + 15) // 60
        for meter, quantity in (("requests", Decimal(1)), ("tokens", Decimal(sent.tokens))):
            self.windows[meter, sent.subject, sent.live, hour].append(quantity)
        return "c" if sent.live else "t"


sent = st.builds(
    Sent,
    id=st.integers(0, 6),
    live=st.sampled_from([True, True, False]),
    subject=st.sampled_from(["a", "b"]),
    tokens=st.sampled_from(["1", "1.0", "0.1", "0.2", "-3", "10000000000000000000", "0.000000000000000001"]),
    minute=st.sampled_from([0, 14, 44, 45, 46, 104, 105]),
)
record = sent | sent | sent | st.just(Sent(0, True, "a", None, 0))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(st.tuples(st.integers(0, 1), record), min_size=1, max_size=8), max_size=5))
async def test_windows_dispositions_and_identities_are_those_of_a_simple_count(
    database_url: str, batches: list[list[tuple[int, Sent]]]
) -> None:
    example = next(examples)
    simple, own = SimpleCount({}, defaultdict(list)), 2 * example  # this example's first partition
    expected: dict[int, str] = defaultdict(str)
    async with counting(database_url) as count:
        for pairs in batches:
            parts = {own + p: [one for partition, one in pairs if partition == p] for p in {pair[0] for pair in pairs}}
            for partition in sorted(parts):  # a batch holds its partitions one after the other
                expected[partition] += "".join(simple.take(one) for one in parts[partition])
            await count.aggregator.apply(
                batch(*((p, count.ends.get(p, 0), [one.value(example) for one in ones]) for p, ones in parts.items()))
            )
            for partition, ones in parts.items():
                count.ends[partition] = count.ends.get(partition, 0) + len(ones)

        stored: dict[int, str] = defaultdict(str)
        for segment in await count.segments():
            if segment.partition >= own:
                stored[segment.partition] += "".join(segment.dispositions)
        assert stored == expected
        assert await _windows(count, example) == {
            (meter, f"{subject}-{example}", live, START.replace(minute=30) + timedelta(hours=hour)): (
                len(values),
                sum(map(Fraction, values)),
            )
            for (meter, subject, live, hour), values in simple.windows.items()
        }
        keys = {identity_key("acme-app", live, f"example-{example}", str(id)) for id, live in simple.first}
        found = await count.rows("SELECT key FROM usage.identity WHERE key = ANY(%s)", [key.hex() for key in keys])
        assert {row[0].bytes for row in found} == keys
        fingerprints = await count.rows(
            "SELECT sum(fingerprint_high), sum(fingerprint_low) FROM usage.window WHERE meter_id = 'requests' "
            "AND subject LIKE %s",
            f"%-{example}",
        )
        hashes = [int.from_bytes(key[:8], "big") for key in keys]
        assert fingerprints == [(sum(n >> 32 for n in hashes), sum(n % 2**32 for n in hashes))] or not keys


async def _windows(count: Any, example: int) -> dict[tuple[str, str, bool, datetime], tuple[int, Fraction]]:
    rows = await count.rows(
        "SELECT meter_id, subject, live, hour, count, sum FROM usage.window WHERE subject LIKE %s", f"%-{example}"
    )
    return {
        (meter, subject, live, hour): (number, Fraction(total)) for meter, subject, live, hour, number, total in rows
    }
