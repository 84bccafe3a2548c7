"""Adjustments of events corrected after the seal: with what was sealed they must add up to what stands. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from services.aggregator.corrections.decide import Signed
from services.aggregator.reconcile.archive import SegmentRow
from services.aggregator.reconcile.finding import Finding, FindingClass
from services.aggregator.reconcile.refold import Terms, as_corrected, is_late
from shared.contracts.messages.event import decode_content
from shared.domain.meter import Reading
from shared.kafka.records import Record
from shared.usage.event import UsageEvent


class Expected:
    """By event that was corrected after the seal: what its adjustments that stand must add up to."""

    def __init__(self) -> None:
        self._events: dict[bytes, tuple[UsageEvent, Record, Counter[Signed]]] = {}

    def add(self, letter: int, record: Record, event: UsageEvent, terms: Terms, row: SegmentRow) -> None:
        """`event` as its windows have it (a late one: as it was sent)."""
        found = terms.adjusted.get(event.key)
        if found is None:
            return
        content = decode_content(record.value or b"")
        stands = as_corrected(event, content, found, terms.reads(row, letter, content))
        wanted = _signed(stands.readings)
        if not is_late(letter):
            wanted.subtract(_signed(event.readings))
        self._events[event.key] = (event, record, wanted)

    def compare(self, stored: Mapping[bytes, Counter[Signed]]) -> list[Finding]:
        findings = []
        for key, (event, record, wanted) in sorted(self._events.items(), key=lambda pair: pair[0]):
            there = stored.get(key, Counter())
            differing = sorted({said.meter_id for said in wanted.keys() | there.keys() if wanted[said] != there[said]})
            if not differing:
                continue
            text = (
                f"event {event.id} in {event.project_id} was corrected after its month was sealed, and its adjustments "
                f"of {', '.join(differing)} do not lead to what stands"
            )
            findings.append(
                Finding(
                    f"adjustment:{key.hex()}",
                    FindingClass.ADJUSTMENT_DIFFERS,
                    text,
                    *(event.organisation_id, event.project_id, differing[0], event.hour),
                    *(record.partition, record.offset, record.offset),
                    details={"stored": _texts(there), "archive": _texts(wanted)},
                )
            )
        return findings


def _signed(readings: Iterable[Reading]) -> Counter[Signed]:
    return Counter(Signed.of(reading) for reading in readings if reading.meter.late != "reject")


def _texts(signed: Counter[Signed]) -> list[str]:
    return [
        f"{times:+d} of {said.meter_id}.{said.meter_version} {said.dimensions} {said.value} {said.distinct.hex()}"
        for said, times in sorted(signed.items(), key=lambda pair: pair[0][:3])
        if times
    ]
