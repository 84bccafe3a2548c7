"""Ingest: HTTP door, spool, Kafka door, key check."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from benchmarks.catalogue import apply_bench_catalogue
from benchmarks.figure import Figure
from benchmarks.ingest import http, kafka_door, key_check, spool
from benchmarks.stack import BenchParts


def measure(parts: BenchParts, report: Callable[[str], None]) -> list[Figure]:
    key = asyncio.run(apply_bench_catalogue(parts))
    figures = []
    report("ingest: HTTP door")
    figures += http.measure(parts, key)
    report("ingest: spool")
    figures += spool.measure(parts, key, report)
    report("ingest: Kafka door")
    figures += kafka_door.measure(parts, key)
    report("ingest: key check")
    figures += key_check.measure(parts, key)
    return figures
