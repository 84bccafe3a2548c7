"""A new key exists nowhere but in the one answer, so nothing that fails after it was stored may lose it."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.support.product import Product


def test_a_new_key_is_kept_although_kafka_is_away(product: Product, tmp_path: Path) -> None:
    file, keys = tmp_path / "catalogue.yaml", tmp_path / "keys.yaml"
    file.write_text(
        "organisations: [{id: keykept, name: K, state_code: '29'}]\n"
        "projects: [{id: keykept-app, organisation: keykept}]\n"
        "keys: [{name: one, project: keykept-app}]\n"
    )
    away = product.khata(
        "catalogue", "apply", str(file), "--keys-out", str(keys), KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9"
    )
    assert away.returncode == 69, away.stderr
    assert "run the same command again" in away.stderr
    key = yaml.safe_load(keys.read_text())["keys"]["keykept-app/one"]

    again = product.khata("catalogue", "apply", str(file))
    assert again.returncode == 0, again.stderr
    assert "kh_live" not in again.stdout
    sent = product.khata(
        *("events", "import", "examples/tokens.csv", "--mapping", "examples/llm/mapping.yaml"),
        *("--into-month", "2026-10", "--key", key),
    )
    assert "Usage" not in sent.stderr, sent.stderr
    assert "refuses the key" not in sent.stderr
