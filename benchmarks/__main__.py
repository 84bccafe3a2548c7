"""`make bench`: measure, and print one table a part. Exit 1 when a total is wrong."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

from rich.console import Console

from benchmarks import aggregator, identity, ingest, reconcile
from benchmarks.figure import table
from benchmarks.stack import bench_stack

PARTS = {
    "ingest": ingest.measure,
    "aggregator": aggregator.measure,
    "identity": identity.measure,
    "reconcile": reconcile.measure,
}
TITLE = "Two cores hold Kafka, PostgreSQL, Khata and the load"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--identities", type=int, help="so many are there already")
    parser.add_argument("--full", action="store_const", const=identity.FULL_KEYS, dest="identities", help="50 million")
    parser.add_argument("--events", type=int, default=reconcile.EVENTS, help="that are reconciled")
    given = parser.parse_args()
    chosen = given.parts or list(PARTS)
    measures = PARTS | {
        "identity": partial(identity.measure, keys=given.identities or identity.KEYS),
        "aggregator": partial(aggregator.measure, standing=given.identities or 0),
        "reconcile": partial(reconcile.measure, events=given.events),
    }
    console = Console()
    if not console.is_terminal:
        console.width = 200
    for name in chosen:
        home = Path(mkdtemp(prefix="khata-bench-"))
        home.chmod(0o755)
        with bench_stack(home) as parts, console.status(name) as status:
            figures = measures[name](parts, status.update)
        console.print(table(f"{name}: {TITLE}", figures))


main()
