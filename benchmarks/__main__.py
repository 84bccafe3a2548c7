"""`make bench`: run every benchmark and print one table. Exit 1 when a total is wrong."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import mkdtemp

from rich.console import Console
from rich.table import Table

from benchmarks import aggregator, ingest
from benchmarks.stack import bench_stack


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    arguments = parser.parse_args()
    home = Path(mkdtemp(prefix="khata-bench-"))
    home.chmod(0o755)
    with bench_stack(home) as parts:
        figures = [*ingest.measure(parts, arguments.events), *aggregator.measure(parts, arguments.events)]
    table = Table(title="Two cores hold Kafka, PostgreSQL, Khata and the load", title_justify="left")
    for name in ("what", "events/s", "limit of this run", "limit events/s", "ratio"):
        table.add_column(name, justify="left" if name in ("what", "limit of this run") else "right")
    for figure in figures:
        table.add_row(
            figure.what,
            f"{figure.rate:,.0f}",
            figure.limit,
            f"{figure.limit_rate:,.0f}",
            f"{figure.rate / figure.limit_rate:.2f}",
        )
    Console().print(table)


main()
