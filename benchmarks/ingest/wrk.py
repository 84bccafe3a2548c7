"""HTTP load by wrk: written in C, it takes little of the two cores that it shares with what it measures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

BATCH = "application/cloudevents-batch+json"
ONE = "application/cloudevents+json"


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw. Every call was answered 2xx."""

    calls: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.calls / self.seconds


def load(
    url: str, key: str, bodies: Path, *, content_type: str, connections: int, seconds: int, rate: float | None = None
) -> Load:
    """Post the bodies (a line each) for so long, `rate` calls a second or as fast as answers come."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("the benchmarks need wrk: apt-get install wrk")
    script = Path(__file__).with_name("load.lua")
    done = subprocess.run(  # noqa: S603 - wrk, with arguments of ours
        [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script), url],
        env=os.environ
        | {
            "BENCH_BODIES": str(bodies),
            "BENCH_KEY": key,
            "BENCH_TYPE": content_type,
            "BENCH_RATE": "" if rate is None else f"{rate:.3f}",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(done.stdout.strip().rpartition("\n")[2])
    if said["not_2xx"] or said["broken"] or not said["calls"]:
        raise SystemExit(f"the load was not answered as it should be: {said}")
    return Load(said["calls"], said["seconds"], said["p50_ms"], said["p99_ms"])
