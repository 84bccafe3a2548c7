"""Whether a finalized invoice agrees with itself and with what it names, without counting anything again.

Bytes and hash, columns, lines, taxes, the ledger's posting and the cut. A forger who mends
one of them, or the hash, is found by another.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Any

from services.invoicer.document import Document, differences, sha256
from shared.domain.period import Month
from shared.ledger.accounts import Account
from shared.postgres.pool import Connection

MOST_DIFFERENCES = 10

# The object of a finalization is its invoice; (kind, object_id) is what the ledger has an index on.
OWED = """
    SELECT entry.account, entry.amount_minor FROM ledger.entry
    JOIN ledger.posting ON posting.id = entry.posting_id
    WHERE posting.kind = 'invoice_finalized' AND posting.object_id = %s AND entry.account = 'receivable'
"""


@dataclass(frozen=True, slots=True)
class StoredInvoice:
    """A finalized invoice as it lies in `billing.invoice`."""

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


async def own_problems(connection: Connection, invoice: StoredInvoice) -> list[str]:
    """What does not agree, in words; empty when all does."""
    found = []
    if sha256(invoice.content_text.encode()) != invoice.content_sha256:
        found.append("the content does not have the hash it was finalized with")
    try:
        document = json.loads(invoice.content_text)
    except ValueError:
        return [*found, "the content is not JSON"]
    found += [f"content (jsonb): {text}" for text in islice(differences(document, invoice.content), MOST_DIFFERENCES)]
    try:
        found += _column_problems(invoice, document)
        found += await _part_problems(connection, invoice, document)
        found += await _cut_problems(connection, document)
    except (KeyError, TypeError, ValueError, InvalidOperation) as error:
        found.append(f"the stored content is not a document: {error!r}")
    return found


def _column_problems(invoice: StoredInvoice, document: Document) -> list[str]:
    said = {name: document["totals"][name] for name in invoice.columns} | {
        "number": document["number"],
        "issued_on": document["issued_on"],
        "currency": document["currency"],
        "organisation_id": document["customer"]["organisation_id"],
        "month": document["period"]["month"],
    }
    columns = invoice.columns | {
        "number": invoice.number,
        "issued_on": invoice.issued_on.isoformat(),
        "currency": invoice.currency,
        "organisation_id": invoice.organisation_id,
        "month": str(invoice.month),
    }
    return [f"columns: {text}" for text in differences(columns, said)]


async def _part_problems(connection: Connection, invoice: StoredInvoice, document: Document) -> list[str]:
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
    owed = await _rows(connection, OWED, invoice.id)
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


async def _cut_problems(connection: Connection, document: Document) -> list[str]:
    """The cut is copied into the document; the row it came from never changes."""
    cut = await (
        await connection.execute("SELECT offsets FROM usage.cut WHERE id = %s", (document["cut"]["id"],))
    ).fetchone()
    return list(differences(document["cut"]["offsets"], cut[0] if cut else None, "cut"))


async def _rows(connection: Connection, query: Any, invoice_id: str) -> list[list[Any]]:
    return [list(row) for row in await (await connection.execute(query, (invoice_id,))).fetchall()]
