"""The proof of one run: journal, identities, segments, windows, invoices and ledger say the same, or it fails.

`khata proof --run ID` computes it again at any later time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from cli.demo import classify
from cli.demo.classify import Classes, Known, key_of
from cli.demo.dead_letters import dead_letter_places
from cli.demo.journal import Journal, Sent
from services.invoicer.verify import verify
from shared.contracts.topics import USAGE_EVENTS, USAGE_RAW
from shared.domain.errors import Rejected
from shared.domain.period import Month, time_zone
from shared.ledger.posting import Standing
from shared.ledger.store import invoice_standing, sum_of_everything
from shared.postgres.pool import Connection, Database
from shared.runtime.settings import KafkaSettings
from shared.usage.event import EventReader, UsageEvent
from shared.usage.fold import fold
from shared.usage.metering import read_metering
from shared.usage.read import segments
from shared.usage.segment import Disposition

ZONE = "Asia/Kolkata"  # of both organisations of a run

Window = tuple[str, str, str, int, datetime]
Content = tuple[int, Decimal, int, int]


@dataclass(frozen=True, slots=True)
class InvoiceProof:
    number: str
    organisation: str
    total_minor: int
    currency: str
    standing: str


@dataclass
class Proof:
    """`problems` names everything that does not hold; the run is proven when it is empty."""

    run: str
    month: str
    accepted: int = 0
    rejected: int = 0
    counted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    dead_lettered: int = 0
    missing: int = 0
    redelivered: int = 0
    kills: int = 0
    invoices: list[InvoiceProof] = field(default_factory=list)
    verified: str = "0/0"
    ledger_sum_minor: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def expect(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(problem)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the proof looks. Two roles: a reader's, and the invoicer's for `verify`."""

    kafka: KafkaSettings
    reader: Database
    invoicer: Database


async def prove(journal: Journal, run: str, sources: Sources) -> Proof:
    """Compute the proof. Raises DatabaseAway, BrokerAway."""
    month = Month.parse(journal.read("month"))
    organisations = journal.read("organisations").split(",")
    projects = journal.read("projects").split(",")
    proof = Proof(run, str(month), kills=int(journal.read("kills", "0")), seconds=float(journal.read("seconds", "0")))
    if not journal.read("seconds"):
        proof.problems.append("the run was interrupted before its end: there is nothing to prove; start another")
        return proof
    proof.expect(journal.unanswered() == 0, f"{journal.unanswered()} sends never had an answer")
    sends = list(journal.answered())
    async with sources.reader.transaction() as connection:
        dead = await dead_letter_places(sources.kafka, sources.kafka.names.topic(USAGE_RAW))
        classes = classify.classify(sends, await _known(connection, sends, dead))
        _tell(proof, classes)
        await _compare_usage(connection, sources.kafka.names.topic(USAGE_EVENTS), proof, classes, projects, month)
        await _compare_meters(connection, proof, classes, projects)
        await _read_invoices(connection, proof, organisations, month)
    await _verify(sources.invoicer, proof)
    return proof


def _tell(proof: Proof, classes: Classes) -> None:
    proof.accepted, proof.rejected = classes.accepted, classes.rejected
    proof.counted, proof.duplicates, proof.conflicts = classes.counted, classes.duplicates, classes.conflicts
    proof.dead_lettered, proof.missing = classes.dead_lettered, len(classes.missing)
    for missing in classes.missing[:5]:
        proof.problems.append(f"missing: {missing}")
    for refused in classes.refused[:5]:
        proof.problems.append(f"a good event was refused: {refused}")
    total = proof.counted + proof.duplicates + proof.conflicts + proof.dead_lettered
    proof.expect(proof.accepted == total and not classes.missing, f"accepted {proof.accepted}, accounted for {total}")


async def _known(connection: Connection, sends: Sequence[Sent], dead: frozenset[tuple[int, int]]) -> Known:
    keys = [UUID(bytes=key) for key in {key_of(sent) for sent in sends if sent.id}]
    identities = await (
        await connection.execute(
            # The generation leads the primary key: without it the whole table is read.
            """
            SELECT key, fingerprint FROM usage.identity
            WHERE generation = ANY(ARRAY(SELECT id FROM usage.generation)) AND key = ANY(%b::uuid[])
            """,
            (keys,),
        )
    ).fetchall()
    conflicts = await (
        await connection.execute("SELECT key, fingerprint FROM usage.conflict WHERE key = ANY(%b::uuid[])", (keys,))
    ).fetchall()
    return Known(
        {key.bytes: fingerprint for key, fingerprint in identities},
        frozenset((key.bytes, fingerprint) for key, fingerprint in conflicts),
        dead,
    )


async def _compare_usage(
    connection: Connection, topic: str, proof: Proof, classes: Classes, projects: Sequence[str], month: Month
) -> None:
    """Segments are folded again and held against the windows; both against what the journal counts."""
    reader = EventReader(await read_metering(connection))
    start, end = month.bounds(time_zone(ZONE))
    seen: Counter[Disposition] = Counter()
    counted: list[UsageEvent] = []
    async for segment in segments(connection, topic, start, end):
        for record, disposition in segment:
            if disposition in (Disposition.REJECTED, Disposition.CORRECTION):
                continue
            try:
                event = reader.read(record.value)
            except Rejected as error:
                proof.problems.append(f"{topic}[{record.partition}] at {record.offset} was counted, but: {error}")
                continue
            if event.project_id in projects:
                seen[disposition] += 1
                if disposition is Disposition.COUNTED:
                    counted.append(event)
    identities = {event.key for event in counted}
    proof.expect(len(identities) == len(counted), f"{len(counted) - len(identities)} identities were counted twice")
    proof.expect(
        identities == {key_of(sent) for sent in classes.counted_sends},
        f"segments hold {len(counted)} counted events, the journal {proof.counted}",
    )
    refolded = {_window(key): _content(delta) for key, delta in fold(counted).items()}
    stored = await _windows(connection, projects)
    for window in sorted(refolded.keys() | stored.keys()):
        if refolded.get(window) != stored.get(window):
            proof.problems.append(f"window {window}: {stored.get(window)}, segments say {refolded.get(window)}")
    proof.redelivered = seen.total() - proof.counted - proof.duplicates - proof.conflicts
    proof.expect(proof.redelivered >= 0, f"{-proof.redelivered} answered sends are not in the segments")


def _window(key: Any) -> Window:
    return (key.project_id, key.subject, key.meter_id, key.meter_version, key.hour)


def _content(delta: Any) -> Content:
    return (delta.count, delta.sum, delta.fingerprint.high, delta.fingerprint.low)


async def _windows(connection: Connection, projects: Sequence[str]) -> dict[Window, Content]:
    rows = await (
        await connection.execute(
            """
            SELECT project_id, subject, meter_id, meter_version, hour, count, sum, fingerprint_high, fingerprint_low
            FROM usage.window WHERE project_id = ANY(%s) AND live AND count > 0
            """,
            (list(projects),),
        )
    ).fetchall()
    return {row[:5]: row[5:] for row in rows}


async def _compare_meters(connection: Connection, proof: Proof, classes: Classes, projects: Sequence[str]) -> None:
    """Windows of each meter and project against what the producers say they sent."""
    meters = await (await connection.execute("SELECT id, event_type, value_path FROM catalogue.meter")).fetchall()
    rows = await (
        await connection.execute(
            """
            SELECT meter_id, project_id, sum(count)::bigint, sum(sum) FROM usage.window
            WHERE project_id = ANY(%s) AND live GROUP BY meter_id, project_id
            """,
            (list(projects),),
        )
    ).fetchall()
    windows = {(meter, project): (count, total) for meter, project, count, total in rows}
    for meter, event_type, value_path in meters:
        for project in projects:
            sends = [s for s in classes.counted_sends if s.type == event_type and s.project == project]
            said = classify.totals(sends, value_path)
            holds = windows.get((meter, project), (0, Decimal(0)))
            proof.expect(holds == said, f"{meter} of {project}: windows say {holds}, the producers {said}")


async def _read_invoices(connection: Connection, proof: Proof, organisations: Sequence[str], month: Month) -> None:
    rows = await (
        await connection.execute(
            """
            SELECT invoice.id::text, number, organisation_id, total_minor, invoice.currency,
                   (SELECT coalesce(sum(amount_minor), 0)::bigint FROM ledger.entry
                    WHERE entry.invoice_id = invoice.id AND account = 'receivable') AS owed,
                   (SELECT receivable_minor FROM ledger.invoice_balance AS balance
                    WHERE balance.invoice_id = invoice.id) AS balance
            FROM billing.invoice
            WHERE organisation_id = ANY(%s) AND year = %s AND month = %s AND state = 'finalized' ORDER BY number
            """,
            (list(organisations), month.year, month.month),
        )
    ).fetchall()
    for id, number, organisation, total, currency, owed, balance in rows:
        standing = await invoice_standing(connection, id)
        proof.invoices.append(InvoiceProof(number, organisation, total, currency, standing.value))
        proof.expect(standing is Standing.PAID, f"invoice {number} is {standing.value}, not paid")
        proof.expect(owed == balance == 0, f"invoice {number}: entries leave {owed} to pay, the balance says {balance}")
    billed = sorted(invoice.organisation for invoice in proof.invoices)
    proof.expect(billed == sorted(organisations), f"invoices exist for {billed}, expected {sorted(organisations)}")
    broken = await sum_of_everything(connection)
    proof.ledger_sum_minor = sum(broken.values())
    proof.expect(not broken, f"the ledger does not sum to zero: {broken}")


async def _verify(invoicer: Database, proof: Proof) -> None:
    numbers = [invoice.number for invoice in proof.invoices]
    reports = await verify(invoicer, "proof", numbers=numbers) if numbers else []
    good = sum(report.equal for report in reports)
    proof.verified = f"{good}/{len(numbers)}"
    for report in reports:
        for difference in report.difference:
            proof.problems.append(f"invoice {report.number} does not verify: {difference}")
    proof.expect(good == len(numbers) > 0, f"{good} of {len(numbers)} invoices verify")
