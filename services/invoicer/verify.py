"""Verify finalized invoices: count again from segments, price at the frozen prices, compare byte for byte (R8.4).

1  read the invoices and look whether each agrees with itself: bytes, hash, columns, lines, taxes, ledger
2  one pass over the segments of their months counts usage for all of them
3  calculate each document again and compare its bytes with the stored ones
4  what differs opens a case (`invoice_drift`); nothing else is ever changed by verifying
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from itertools import groupby, islice
from typing import Any

from services.invoicer import cases
from services.invoicer.calculate import calculate, terms_of
from services.invoicer.document import Document, canonical, differences, numbered, sha256
from services.invoicer.recount import Recount, count
from shared.domain.errors import Fatal, NeedsPerson, Rejected, Usage
from shared.domain.period import Month
from shared.ledger.accounts import Account
from shared.observability import names
from shared.postgres.pool import Connection, Database
from shared.usage.read import segments

MOST_DIFFERENCES = 10


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """`difference` says where the stored invoice and the recount part; empty when equal."""

    number: str
    organisation_id: str
    equal: bool
    difference: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Stored:
    id: str
    organisation_id: str
    month: Month
    currency: str
    number: str
    issued_on: date
    columns: dict[str, int]
    content: Document
    content_text: str
    content_sha256: bytes


async def verify(
    database: Database, actor: str, *, numbers: Sequence[str] = (), month: Month | None = None
) -> list[VerifyReport]:
    """Verify the named invoices, or all of a month, or all. Raises Usage for a number that does not exist."""
    async with database.connection() as connection:
        stored = await _read(connection, numbers, month)
    reports = []
    for _, same_month in groupby(stored, key=lambda invoice: invoice.month):
        reports += await _verify_month(database, list(same_month))
    for invoice, report in zip(stored, reports, strict=True):
        names.INVOICES_VERIFIED.labels("equal" if report.equal else "drift").inc()
        if not report.equal:
            await _open_case(database, invoice, report, actor)
    return reports


async def _verify_month(database: Database, stored: Sequence[_Stored]) -> list[VerifyReport]:
    """Steps 1 to 3 for invoices of one month, read in one snapshot."""
    problems: dict[str, list[str]] = {}
    recounts: dict[str, Recount] = {}
    async with database.transaction() as connection:
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for invoice in stored:
            problems[invoice.id] = await _own_problems(connection, invoice)
            try:
                recounts[invoice.id] = Recount.of(json.loads(invoice.content_text))
            except (ValueError, KeyError, TypeError, Rejected, Usage) as error:
                problems[invoice.id].append(f"the stored content is not a document: {error!r}")
        try:
            await _count(connection, list(recounts.values()))
        except Fatal as damaged:
            for found in problems.values():
                found.append(str(damaged))
            recounts.clear()
    for invoice in stored:
        if invoice.id in recounts:
            problems[invoice.id] += _compare(invoice, recounts[invoice.id])
    return [
        VerifyReport(invoice.number, invoice.organisation_id, not found, tuple(found))
        for invoice in stored
        for found in [problems[invoice.id]]
    ]


async def _count(connection: Connection, recounts: Sequence[Recount]) -> None:
    """Step 2. Raises Fatal for a damaged segment."""
    if not recounts:
        return
    projects = await (await connection.execute("SELECT id, organisation_id FROM catalogue.project")).fetchall()
    owners: dict[str, str] = dict(projects)
    by_organisation: dict[str, list[Recount]] = {}
    for recount in recounts:
        by_organisation.setdefault(recount.organisation_id, []).append(recount)
    start: datetime = min(recount.start for recount in recounts)
    end: datetime = max(recount.end for recount in recounts)
    for topic in sorted({topic for recount in recounts for topic in recount.cut.offsets}):
        async for segment in segments(connection, topic, start, end):
            count(segment, by_organisation, owners)


def _compare(invoice: _Stored, recount: Recount) -> list[str]:
    """Step 3."""
    document = json.loads(invoice.content_text)
    try:
        terms = terms_of(document)
        keys = [line.key for line in terms.lines]
        rebuilt = numbered(calculate(terms, recount.used(keys)), invoice.number, invoice.issued_on)
    except (NeedsPerson, Rejected) as error:
        return [f"cannot be calculated again: {error.code}: {error.message}"]
    except (KeyError, TypeError, ValueError) as error:
        return [f"the stored content is not a document: {error!r}"]
    found = recount.unreadable[:MOST_DIFFERENCES] + recount.uncovered(keys)[:MOST_DIFFERENCES]
    if canonical(rebuilt) != invoice.content_text.encode():
        found += list(islice(differences(document, rebuilt), MOST_DIFFERENCES)) or [
            "the stored bytes are not the canonical spelling of what they say"
        ]
    return found


async def _own_problems(connection: Connection, invoice: _Stored) -> list[str]:
    """Step 1: whether the invoice agrees with itself."""
    found = []
    if sha256(invoice.content_text.encode()) != invoice.content_sha256:
        found.append("the content does not have the hash it was finalized with")
    try:
        document = json.loads(invoice.content_text)
    except ValueError:
        return [*found, "the content is not JSON"]
    found += [f"content (jsonb): {text}" for text in islice(differences(document, invoice.content), MOST_DIFFERENCES)]
    said = {name: document["totals"].get(name) for name in invoice.columns} | {
        "number": document["number"],
        "issued_on": document["issued_on"],
        "currency": document["currency"],
    }
    columns = invoice.columns | {
        "number": invoice.number,
        "issued_on": invoice.issued_on.isoformat(),
        "currency": invoice.currency,
    }
    found += [f"columns: {text}" for text in differences(columns, said)]
    found += await _part_problems(connection, invoice, document)
    return found


async def _part_problems(connection: Connection, invoice: _Stored, document: Document) -> list[str]:
    lines = await _rows(
        connection,
        "SELECT item, amount_minor FROM billing.invoice_line WHERE invoice_id = %s ORDER BY position",
        invoice.id,
    )
    taxes = await _rows(
        connection,
        "SELECT head, amount_minor FROM billing.invoice_tax WHERE invoice_id = %s ORDER BY head, rate",
        invoice.id,
    )
    owed = await _rows(
        connection,
        """
        SELECT entry.account, entry.amount_minor FROM ledger.entry
        JOIN ledger.posting ON posting.id = entry.posting_id
        WHERE posting.kind = 'invoice_finalized' AND posting.invoice_id = %s AND entry.account = 'receivable'
        """,
        invoice.id,
    )
    total_minor = document["totals"]["total_minor"]
    wanted: dict[str, list[Any]] = {
        "invoice_line": [[line["item"], line.get("amount_minor", 0)] for line in document["lines"]]
        + [[line["item"], 0] for line in document["informational"]],
        "invoice_tax": [
            [tax["head"], tax["amount_minor"]]
            for tax in sorted(document["tax"], key=lambda tax: (tax["head"], Decimal(tax["rate"])))
        ],
        "ledger": [[Account.RECEIVABLE.value, total_minor]] if total_minor else [],
    }
    stored = {"invoice_line": lines, "invoice_tax": taxes, "ledger": owed}
    return list(differences(stored, wanted))


async def _rows(connection: Connection, query: Any, invoice_id: str) -> list[list[Any]]:
    return [list(row) for row in await (await connection.execute(query, (invoice_id,))).fetchall()]


async def _read(connection: Connection, numbers: Sequence[str], month: Month | None) -> list[_Stored]:
    rows = await (
        await connection.execute(
            """
            SELECT id::text, organisation_id, year, month, currency, number, issued_on,
                   subtotal_minor, discount_minor, tax_minor, total_minor, content, content_text, content_sha256
            FROM billing.invoice
            WHERE state = 'finalized' AND (%(numbers)s::text[] IS NULL OR number = ANY(%(numbers)s::text[]))
              AND (%(year)s::int IS NULL OR (year, month) = (%(year)s::int, %(month)s::int))
            ORDER BY year, month, number
            """,
            {
                "numbers": list(numbers) or None,
                "year": month.year if month else None,
                "month": month.month if month else None,
            },
        )
    ).fetchall()
    if missing := sorted(set(numbers) - {row[5] for row in rows}):
        raise Usage(f"there is no finalized invoice {', '.join(missing)}; `khata invoices list` names them")
    columns = ("subtotal_minor", "discount_minor", "tax_minor", "total_minor")
    return [
        _Stored(
            id=row[0],
            organisation_id=row[1],
            month=Month(row[2], row[3]),
            currency=row[4],
            number=row[5],
            issued_on=row[6],
            columns=dict(zip(columns, row[7:11], strict=True)),
            content=row[11],
            content_text=row[12],
            content_sha256=bytes(row[13]),
        )
        for row in rows
    ]


async def _open_case(database: Database, invoice: _Stored, report: VerifyReport, actor: str) -> None:
    case = cases.Case(
        cases.DRIFT,
        invoice.number,
        invoice.organisation_id,
        "find out which of usage, prices and invoice changed; a wrong invoice is mended by a credit note",
        {"invoice_id": invoice.id, "difference": list(report.difference)},
    )
    async with database.transaction() as connection:
        await cases.open_case(connection, case, actor)
