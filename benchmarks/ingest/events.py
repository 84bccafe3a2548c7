"""The events of the load: about 200 bytes each, 1,000 subjects, in order of time, 200,000 in two hours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.catalogue import PROJECT

BODIES = 200
FIRST = datetime(2026, 10, 15, 12, tzinfo=UTC)


def event(number: int) -> dict[str, object]:
    return {
        "specversion": "1.0",
        "id": f"{number:012d}",
        "source": "bench",
        "type": "bench.request",
        "subject": f"customer-{number % 1000:04d}",
        "time": (FIRST + timedelta(milliseconds=36 * number)).isoformat(),
        "data": {"tokens": number % 997, "model": "small"},
    }


def bodies(call: int) -> Sequence[bytes]:
    """So many different calls, of `call` events each (1: an event alone, not a list)."""
    made = [[event(first * call + each) for each in range(call)] for first in range(BODIES)]
    return [json.dumps(one[0] if call == 1 else one).encode() for one in made]


def raw_record(number: int) -> bytes:
    """As producers write it to `usage.raw.v1`."""
    return json.dumps(event(number) | {"project": PROJECT}).encode()


def write_lines(path: Path, lines: Sequence[bytes]) -> Path:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path
