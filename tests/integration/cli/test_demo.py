"""The demo is the main job; its proof must hold, survive kills, and fail when one row is missing."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from cli.demo.classify import key_of
from cli.demo.journal import Journal
from cli.demo.run import folder
from devstack.postgres import create_database, drop_database
from tests.support.product import ROOT, Product
from tests.support.proofs import COUNTS, contents, totals

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def calm(product: Product) -> dict[str, Any]:
    """A run of 2,000 events without kills."""
    proof: dict[str, Any] = product.json("demo", "--events", "2000", "--seed", "7")
    return proof


def test_every_event_is_accounted_for_and_every_invoice_is_paid(calm: dict[str, Any]) -> None:
    assert calm["problems"] == []
    assert calm["counted"] == 2000
    assert calm["missing"] == 0
    assert calm["accepted"] == calm["counted"] + calm["duplicates"] + calm["conflicts"] + calm["dead_lettered"]
    assert min(calm["duplicates"], calm["conflicts"], calm["dead_lettered"], calm["rejected"]) > 0
    assert calm["verified"] == "2/2"
    assert calm["ledger_sum_minor"] == 0
    assert [invoice["standing"] for invoice in calm["invoices"]] == ["paid", "paid"]


@pytest.mark.failpoints("outbox.relay.before_mark", "invoicer.finalize.before_commit")
def test_kills_in_the_middle_of_the_work_change_nothing(product: Product, calm: dict[str, Any]) -> None:
    killed = product.json("demo", "--events", "2000", "--seed", "7", "--kill")
    assert killed["problems"] == []
    assert killed["kills"] >= 5
    assert {name: killed[name] for name in COUNTS} == {name: calm[name] for name in COUNTS}
    assert totals(killed) == totals(calm)
    assert contents(product, killed) == contents(product, calm)


def test_the_proof_can_be_computed_again_later(product: Product, calm: dict[str, Any]) -> None:
    assert product.json("proof", "--run", calm["run"]) == calm


@pytest.fixture(scope="module")
def snapshot(product: Product, calm: dict[str, Any]) -> Iterator[str]:
    """A copy of the product's database after the calm run, to be damaged by one test after the other."""
    name = f"khata_damaged_{uuid.uuid4().hex[:8]}"
    url = create_database(product.owner_url, name)
    # By dump: a database with sessions cannot be a template, and the services keep theirs.
    dump = subprocess.run(["pg_dump", "--format=custom", product.env["DATABASE_URL"]], capture_output=True, check=True)
    restore = ["pg_restore", "--no-owner", "--exit-on-error", "--dbname", url]
    subprocess.run(restore, input=dump.stdout, capture_output=True, check=True)
    yield url
    drop_database(product.owner_url, name)


# Each takes one row of the calm run: `key` is the identity of its first counted event.
DAMAGE = {
    "one identity": "DELETE FROM usage.identity WHERE key = %(key)s",
    "one window": """
        DELETE FROM usage.window WHERE ctid IN (SELECT ctid FROM usage.window WHERE project_id LIKE %(run)s LIMIT 1)
        """,
    "one ledger entry": """
        DELETE FROM ledger.entry WHERE (posting_id, position) IN (
            SELECT posting_id, position FROM ledger.entry WHERE organisation_id LIKE %(run)s LIMIT 1)
        """,
    "one segment": """
        DELETE FROM usage.segment WHERE (partition, first_offset) IN (
            SELECT segment.partition, first_offset FROM usage.segment JOIN usage.identity
                ON identity.partition = segment.partition AND log_offset BETWEEN first_offset AND last_offset
            WHERE key = %(key)s)
        """,
}


def counted_key(product: Product, run: str) -> UUID:
    """Identity of an event that the run's own journal holds as accepted."""
    journal = Journal(folder(Path(product.env["KHATA_HOME"])) / run / "journal.sqlite3")
    try:
        return UUID(bytes=next(key_of(sent) for sent in journal.answered() if sent.id and sent.answer == "accepted"))
    finally:
        journal.close()


@pytest.mark.parametrize("what", DAMAGE)
def test_the_proof_fails_when_one_row_is_deleted_by_hand(
    product: Product, calm: dict[str, Any], snapshot: str, what: str
) -> None:
    with psycopg.connect(snapshot) as connection:
        removed = _delete_one(connection, what, calm["run"], counted_key(product, calm["run"]))
    try:
        done = product.khata("proof", "--run", calm["run"], "--output", "json", DATABASE_URL=snapshot)
        assert done.returncode == 1, done.stdout + done.stderr
    finally:
        _put_back(snapshot, *removed)
    healed = product.khata("proof", "--run", calm["run"], "--output", "json", DATABASE_URL=snapshot)
    assert healed.returncode == 0, healed.stdout + healed.stderr


def _delete_one(connection: psycopg.Connection[TupleRow], what: str, run: str, key: UUID) -> tuple[str, list[TupleRow]]:
    table = DAMAGE[what].split()[2]
    connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    rows = connection.execute(DAMAGE[what] + f" RETURNING {table}.*", {"run": f"%{run}%", "key": key}).fetchall()
    assert len(rows) == 1, f"nothing to delete in {table}"
    return table, rows


def _put_back(url: str, table: str, rows: list[TupleRow]) -> None:
    with psycopg.connect(url) as connection:
        marks = sql.SQL(", ").join([sql.Placeholder()] * len(rows[0]))
        insert = sql.SQL("INSERT INTO {} OVERRIDING SYSTEM VALUE VALUES ({})")
        connection.execute(insert.format(sql.Identifier(*table.split(".")), marks), rows[0])
        connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")


def lines_of(product: Product, proof: dict[str, Any]) -> dict[str, Any]:
    """Number, amounts and totals of the invoice to the other state."""
    number = next(i["number"] for i in proof["invoices"] if i["organisation"].endswith("other"))
    document: dict[str, Any] = product.json("invoices", "show", number)["document"]
    return document


def bill(product: Product, file: Path, prices: Path = EXAMPLES / "llm" / "prices.yaml") -> tuple[dict[str, Any], int]:
    proof = product.json(
        "demo",
        *("--events", "20", "--input", str(file)),
        *("--mapping", str(EXAMPLES / "llm" / "mapping.yaml"), "--prices", str(prices)),
    )
    total = next(i["total_minor"] for i in proof["invoices"] if i["organisation"].endswith("other"))
    return proof, total


def test_a_small_file_is_billed_to_the_paisa(product: Product, tmp_path: Path) -> None:
    """By hand: 199,000 context tokens at 250.00 a million = 49.75; 16,300 generated at 1,000.00 = 16.30;
    subtotal 66.05; IGST 18 % = 11.889, rounded 11.89; total 77.94 INR."""
    _, total = bill(product, EXAMPLES / "tokens.csv")
    assert total == 7794


def test_another_price_gives_another_total(product: Product, tmp_path: Path) -> None:
    """By hand: 49.75 becomes 199,000 x 260.00 a million = 51.74; 68.04; IGST 12.2472, rounded 12.25; 80.29."""
    prices = tmp_path / "prices.yaml"
    prices.write_text((EXAMPLES / "llm" / "prices.yaml").read_text().replace('"250.00"', '"260.00"'))
    _, total = bill(product, EXAMPLES / "tokens.csv", prices)
    assert total == 8029


def test_one_row_less_gives_another_total(product: Product, tmp_path: Path) -> None:
    lines = (EXAMPLES / "tokens.csv").read_text().splitlines()
    _, context, generated = lines[-1].split(",")
    shorter = tmp_path / "shorter.csv"
    shorter.write_text("\n".join(lines[:-1]) + "\n")
    _, total = bill(product, shorter)
    # Each amount rounds alone: (199,000 - context) x 250 / 1,000,000 and (16,300 - generated) x 1,000 / 1,000,000.
    paise = round((199_000 - int(context)) * 25 / 1000) + (16_300 - int(generated)) // 10
    assert total == paise + int(paise * 18 / 100 + 0.5)
    assert total < 7794


@pytest.mark.timeout(180)
def test_the_llm_trace_is_billed_to_the_paisa(product: Product) -> None:
    """8,819 real requests: 18,059,974 context and 245,896 generated tokens; 4,514.99 + 245.90 + IGST 856.96."""
    folder = os.environ.get("KHATA_TRIAL_DATA")
    if folder is None:
        pytest.skip("KHATA_TRIAL_DATA does not name the folder of the licensed trial data (llm-requests.csv)")
    proof, total = bill(product, Path(folder) / "llm-requests.csv")
    assert total == 561_785
    assert proof["counted"] == 8_819 + 20
    document = lines_of(product, proof)
    assert [line["quantity"] for line in document["informational"]] == ["8819"]
    assert [(line["quantity"], line["amount_minor"]) for line in document["lines"]] == [
        ("18059974", 451_499),
        ("245896", 24_590),
    ]
    assert document["totals"] == {
        "subtotal_minor": 476_089,
        "discount_minor": 0,
        "taxable_minor": 476_089,
        "tax_minor": 85_696,
        "total_minor": 561_785,
    }
