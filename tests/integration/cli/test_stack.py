"""What the services of one machine are told."""

from __future__ import annotations

from pathlib import Path

from tests.support.product import Product
from tests.support.waiting import eventually


async def test_ingest_keeps_what_it_needs_to_start_while_kafka_is_away(product: Product) -> None:
    """That it does start then is shown in tests/integration/faults."""
    home = Path(product.env["KHATA_HOME"])
    copy, spool = home / "catalogue-ingest.json", home / "spool-ingest.sqlite3"

    async def kept() -> bool:
        return copy.exists() and spool.exists()

    await eventually(kept)
    assert copy.stat().st_mode & 0o777 == 0o600
