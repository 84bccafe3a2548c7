"""The catalogue of a benchmark run: one project, one counting and one summing meter, one key."""

from __future__ import annotations

from benchmarks.stack import BenchParts
from cli.catalogue import CatalogueSettings, apply_file
from shared.catalogue.file import parse_catalogue

PROJECT = "bench-app"
METERS = [
    {"id": "bench_sum", "event_type": "bench.request", "aggregation": "sum", "value_path": "tokens"},
    {"id": "bench_count", "event_type": "bench.request", "aggregation": "count"},
]
DOCUMENT = {
    "organisations": [{"id": "bench", "name": "Bench", "state_code": "29"}],
    "projects": [{"id": PROJECT, "organisation": "bench"}],
    "keys": [{"name": "load", "project": PROJECT}],
}


async def apply_bench_catalogue(parts: BenchParts, meters: int = 1) -> str:
    """With so many of the meters. Returns the key (empty when it was made before)."""
    settings = CatalogueSettings.model_validate(
        {
            "kafka_bootstrap_servers": parts.bootstrap,
            "kafka_topic_prefix": parts.prefix,
            "database_url": parts.database_url,
            "key_peppers": parts.env["KEY_PEPPERS"],
        }
    )
    outcome = await apply_file(settings, parse_catalogue(DOCUMENT | {"meters": METERS[:meters]}, "bench"))
    return next(iter(outcome.secrets.values()), "")
