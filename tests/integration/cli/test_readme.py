"""The README's commands work as they are written."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import psycopg

from tests.support.product import ROOT, Product

README = (ROOT / "README.md").read_text()


def commands(fence: str) -> list[str]:
    """Lines of the fenced blocks of one kind."""
    blocks = re.findall(rf"```{fence}\n(.*?)```", README, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_the_khata_commands_lead_from_a_catalogue_to_an_invoice(product: Product, tmp_path: Path) -> None:
    typed = [line.removeprefix("$ khata ") for line in commands("console")]
    assert len(typed) >= 6
    for line in typed:
        arguments = shlex.split(line.replace(".khata/bakery-keys.yaml", str(tmp_path / "keys.yaml")))
        done = product.khata(*arguments)
        assert done.returncode == 0, f"khata {line}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "keys.yaml").stat().st_mode & 0o777 == 0o600
    with psycopg.connect(product.env["DATABASE_URL"]) as connection:
        total = connection.execute(
            "SELECT total_minor FROM billing.invoice WHERE organisation_id = 'example-bakery'"
        ).fetchone()
    # By hand: 49.75 + 16.30 + 500.00 = 566.05; IGST 18 % = 101.889, rounded 101.89; 667.94 INR.
    assert total == (66_794,)


def test_importing_the_file_again_counts_nothing_again(product: Product, tmp_path: Path) -> None:
    keys = tmp_path / "again.yaml"
    catalogue = tmp_path / "again-catalogue.yaml"
    text = (ROOT / "examples" / "catalogue.yaml").read_text()
    catalogue.write_text(text.replace("example-bakery", "again-bakery").replace("bakery-assistant", "again-assistant"))
    assert product.khata("catalogue", "apply", str(catalogue), "--keys-out", str(keys)).returncode == 0
    for _ in range(2):
        summary = product.json(
            *("events", "import", "examples/tokens.csv", "--mapping", "examples/llm/mapping.yaml"),
            *("--into-month", "2026-10", "--keys-file", str(keys)),
        )
        assert (summary["rows"], summary["accepted"], summary["rejected"]) == (42, 42, 0)
    closed = product.json("invoices", "close", "--month", "2026-10", "--organisation", "again-bakery")
    assert closed[0]["total_minor"] == 66_794


def test_every_make_target_of_the_readme_exists_and_describes_itself() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = set(re.findall(r"`?make ([a-z]+)", README))
    assert {"demo", "test", "check", "up", "down"} <= named
    for target in named | {"bench", "chaos"}:
        assert re.search(rf"make {target} +\S+", listed), f"make help does not list {target}"


def test_ci_runs_exactly_the_test_command_of_the_readme() -> None:
    assert "make test" in commands("sh")[1]
    last = (ROOT / ".ci" / "run").read_text().strip().splitlines()[-1]
    assert last == "make test"


def test_every_service_readme_tells_topics_tables_and_settings() -> None:
    for service in ("ingest", "aggregator", "invoicer", "payments"):
        text = (ROOT / "services" / service / "README.md").read_text()
        for word in ("topic", "usage." if service != "payments" else "payments.", "settings", "_PORT"):
            assert word in text or word.title() in text, f"services/{service}/README.md does not tell {word}"
