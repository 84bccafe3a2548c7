"""Five runs with kills, each with another seed and order, against the same seeds without kills."""

from __future__ import annotations

import pytest

from tests.support.product import Product
from tests.support.proofs import COUNTS, contents, totals

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


@pytest.mark.parametrize("seed", [11, 12, 13, 14, 15])
def test_kills_change_neither_counts_nor_totals_nor_contents(product: Product, seed: int) -> None:
    calm = product.json("demo", "--events", "5000", "--seed", str(seed))
    killed = product.json("demo", "--events", "5000", "--seed", str(seed), "--kill")
    assert killed["problems"] == calm["problems"] == []
    assert killed["kills"] >= 5
    assert {name: killed[name] for name in COUNTS} == {name: calm[name] for name in COUNTS}
    assert totals(killed) == totals(calm)
    assert contents(product, killed) == contents(product, calm)
