"""Wrong input gets one clear sentence, the exit code that scripts need, and never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.product import Product


def refused(product: Product, code: int, *arguments: str, **env: str) -> str:
    done = product.khata(*arguments, **env)
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr + done.stdout
    return done.stderr


def test_a_catalogue_with_mistakes_names_each_with_its_place(product: Product, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(
        "organisations: [{id: Upper Case, name: X}]\n"
        "meters: [{id: m, event_type: t, aggregation: median}, {id: n, event_type: t, aggregation: sum}]\n"
    )
    text = refused(product, 2, "catalogue", "apply", str(file))
    for place in ("organisations.0.id", "meters.0.aggregation", "meters.1", "sum needs value_path"):
        assert place in text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("prices: [{meter: llm_nobody, per_unit: {amount: '1'}, description: X}]", "llm_nobody"),
        ("prices: [{flat: fee, monthly: {amount: '-1'}, description: X}]", "-1"),
        ("prices: [{flat: fee, organisation: nobody-here, monthly: {amount: '1'}, description: X}]", "nobody-here"),
        ("prices: [{flat: fee, monthly: {amount: '1'}}]", "prices.0.description"),
        ("projects: [{id: orphan, organisation: nobody-here}]", "nobody-here"),
        ("seller: {name: S, gstin: 29AABCU9603R1ZX, address: A}", "29AABCU9603R1ZX"),
        ("[1, 2]", "must hold"),
        ("a: [", "not YAML"),
    ],
)
def test_what_cannot_be_applied_is_told_and_changes_nothing(
    product: Product, tmp_path: Path, content: str, says: str
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(content)
    assert says in refused(product, 2, "catalogue", "apply", str(file))


def test_a_meter_that_would_miss_older_events_is_refused(product: Product, tmp_path: Path) -> None:
    file = tmp_path / "meters.yaml"
    meter = "{{id: late_{0}, event_type: late.type, aggregation: count}}"
    file.write_text(f"meters: [{meter.format('first')}, {meter.format('second')}]")
    assert product.khata("catalogue", "apply", str(file)).returncode == 0
    file.write_text(f"meters: [{meter.format('third')}]")
    assert "late_third" in refused(product, 2, "catalogue", "apply", str(file))


def test_a_dry_run_shows_what_would_change_and_changes_nothing(product: Product, tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    file.write_text("organisations: [{id: dry-run-only, name: Dry, state_code: '29'}]")
    for _ in range(2):
        rows = product.json("catalogue", "apply", str(file), "--dry-run")
        assert rows == [{"kind": "organisation", "id": "dry-run-only", "outcome": "created"}]


def test_a_month_that_is_none_or_not_over_cannot_be_closed(product: Product) -> None:
    assert "YYYY-MM" in refused(product, 2, "invoices", "close", "--month", "October")
    assert refused(product, 2, "invoices", "close", "--month", "2999-01", "--organisation", "example")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("proof", "--run", "nosuchrun"), "nosuchrun"),
        (("demo", "--input", "README.md"), "belong together"),
        (("invoices", "show", "KH/99-99/999999"), "KH/99-99/999999"),
        (("events", "import", "nowhere.csv", "--mapping", "examples/llm/mapping.yaml", "--key", "x"), "nowhere.csv"),
        (("events", "import", "README.md", "--mapping", "nowhere.yaml", "--key", "x"), "nowhere.yaml"),
        (("catalogue", "apply", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_what_is_not_there_is_named(product: Product, arguments: tuple[str, ...], says: str) -> None:
    assert says in refused(product, 2, *arguments)


def test_a_wrong_key_is_told_before_anything_is_sent(product: Product) -> None:
    text = refused(
        product,
        2,
        *("events", "import", "examples/tokens.csv", "--mapping", "examples/llm/mapping.yaml"),
        *("--into-month", "2026-10", "--key", "kh_live_wrong"),
    )
    assert "key" in text
    assert "kh_live_wrong" not in text


def test_a_database_that_is_not_there_is_exit_code_69(product: Product) -> None:
    text = refused(product, 69, "invoices", "list", DATABASE_URL="postgresql://nobody:x@127.0.0.1:9/none")
    assert "Postgres" in text


def test_settings_that_are_wrong_are_listed_together_with_exit_code_78(product: Product) -> None:
    text = refused(product, 78, "run", "ingest", HTTP_PORT="-1", KAFKA_BOOTSTRAP_SERVERS="nowhere", KEY_PEPPERS="short")
    for name in ("HTTP_PORT", "KAFKA_BOOTSTRAP_SERVERS", "KEY_PEPPERS"):
        assert name in text


def test_an_unknown_service_names_the_known_ones(product: Product) -> None:
    assert "aggregator" in refused(product, 2, "run", "nothing")
