"""`make bench`: measure, and print one table a part. Exit 1 when a total is wrong."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import mkdtemp

from rich.console import Console

from benchmarks import aggregator, ingest
from benchmarks.figure import table
from benchmarks.stack import bench_stack

PARTS = {"ingest": ingest.measure, "aggregator": aggregator.measure}
TITLE = "Two cores hold Kafka, PostgreSQL, Khata and the load"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    chosen = parser.parse_args().parts or list(PARTS)
    console = Console()
    for name in chosen:
        home = Path(mkdtemp(prefix="khata-bench-"))
        home.chmod(0o755)
        with bench_stack(home) as parts, console.status(name) as status:
            figures = PARTS[name](parts, status.update)
        console.print(table(f"{name}: {TITLE}", figures))


main()
