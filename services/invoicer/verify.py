"""Verify finalized invoices: count again from segments, tile and price again, compare byte for byte (R8.4).

1  read the invoices and look whether each agrees with itself (`self_check`)
2  one pass over the segments of their months counts usage for all of them
3  calculate each document again from its own terms and compare its bytes with the stored ones
4  tile the month again from the prices in force and compare those terms with its own (`terms_check`)
5  what differs opens a case (`invoice_drift`); nothing else is ever changed by verifying
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, islice

from services.invoicer import cases
from services.invoicer.calculate import calculate, terms_of
from services.invoicer.document import canonical, differences, numbered
from services.invoicer.recount import Recount, count
from services.invoicer.self_check import MOST_DIFFERENCES, StoredInvoice, own_problems
from services.invoicer.terms_check import term_problems
from shared.domain.errors import Fatal, NeedsPerson, Rejected, Usage
from shared.domain.period import Month
from shared.observability import names
from shared.postgres.pool import Connection, Database
from shared.usage.corrected import in_windows
from shared.usage.read import segments


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """`difference` says where the stored invoice and the recount part; empty when equal."""

    number: str
    organisation_id: str
    equal: bool
    difference: tuple[str, ...]


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


async def _verify_month(database: Database, stored: Sequence[StoredInvoice]) -> list[VerifyReport]:
    """Steps 1 to 4 for invoices of one month, read in one snapshot."""
    problems: dict[str, list[str]] = {}
    recounts: dict[str, Recount] = {}
    async with database.transaction() as connection:
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for invoice in stored:
            problems[invoice.id] = await own_problems(connection, invoice)
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
                problems[invoice.id] += await _compare(connection, invoice, recounts[invoice.id])
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
        recount.corrected = await in_windows(connection, [recount.organisation_id], recount.start, recount.end)
        by_organisation.setdefault(recount.organisation_id, []).append(recount)
    start: datetime = min(recount.start for recount in recounts)
    end: datetime = max(recount.end for recount in recounts)
    for topic in sorted({topic for recount in recounts for topic in recount.cut.offsets}):
        async for segment in segments(connection, topic, start, end):
            count(segment, by_organisation, owners)


async def _compare(connection: Connection, invoice: StoredInvoice, recount: Recount) -> list[str]:
    """Steps 3 and 4."""
    document = json.loads(invoice.content_text)
    try:
        terms = terms_of(document)
        keys = [line.key for line in terms.lines]
        rebuilt = numbered(calculate(terms, recount.used(keys)), invoice.number, invoice.issued_on)
        other_terms = await term_problems(connection, document, recount)
    except (NeedsPerson, Rejected) as error:
        return [f"cannot be calculated again: {error.code}: {error.message}"]
    except (KeyError, TypeError, ValueError) as error:
        return [f"the stored content is not a document: {error!r}"]
    found = recount.unreadable[:MOST_DIFFERENCES] + recount.uncovered(keys)[:MOST_DIFFERENCES]
    if canonical(rebuilt) != invoice.content_text.encode():
        found += list(islice(differences(document, rebuilt), MOST_DIFFERENCES)) or [
            "the stored bytes are not the canonical spelling of what they say"
        ]
    return found + other_terms[:MOST_DIFFERENCES]


async def _read(connection: Connection, numbers: Sequence[str], month: Month | None) -> list[StoredInvoice]:
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
        StoredInvoice(
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


async def _open_case(database: Database, invoice: StoredInvoice, report: VerifyReport, actor: str) -> None:
    case = cases.Case(
        cases.DRIFT,
        invoice.number,
        invoice.organisation_id,
        "find out which of usage, prices and invoice changed; a wrong invoice is mended by a credit note",
        {"invoice_id": invoice.id, "difference": list(report.difference)},
    )
    async with database.transaction() as connection:
        await cases.open_case(connection, case, actor)
