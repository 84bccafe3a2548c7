"""Ingest: `measure` prints nothing and gives every figure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from benchmarks.catalogue import apply_bench_catalogue
from benchmarks.figure import Figure
from benchmarks.ingest import http
from benchmarks.stack import BenchParts


def measure(parts: BenchParts, report: Callable[[str], None]) -> list[Figure]:
    key = asyncio.run(apply_bench_catalogue(parts))
    figures = []
    for name, part in (("HTTP door", http.measure),):
        report(name)
        figures += part(parts, key)
    return figures
