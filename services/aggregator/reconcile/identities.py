"""Identities against first sightings: what the archive counted is what is remembered, block by block of offsets. Pure.

A first sighting is a record whose disposition says that its identity was taken: counted, adjustment, test, unmetered,
correction.
A block's sums (of records, of both halves of the keys, of offsets) are equal or it is taken apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import msgspec

from services.aggregator.reconcile.finding import Finding, FindingClass, of_offsets
from shared.domain.identity import identity_key
from shared.kafka.records import Record
from shared.usage.segment import Disposition

FIRST_SIGHTINGS = frozenset(
    ord(each.value)
    for each in (
        *(Disposition.COUNTED, Disposition.ADJUSTMENT, Disposition.TEST, Disposition.UNMETERED, Disposition.CORRECTION),
    )
)


class Sums(NamedTuple):
    """Order-free, of (key, offset) pairs."""

    events: int = 0
    high: int = 0
    low: int = 0
    offsets: int = 0


class Sighting(NamedTuple):
    """`time` is the event's."""

    key: bytes
    offset: int
    name: str
    time: datetime


class _Identity(msgspec.Struct, gc=False):
    project: str
    live: bool
    source: str
    id: str
    time: datetime


_identity = msgspec.json.Decoder(_Identity).decode


@dataclass(slots=True)
class Block:
    """First sightings of a stretch of one partition."""

    partition: int
    first_offset: int
    last_offset: int
    sums: Sums = Sums()


def sightings(records: Iterable[Record], dispositions: bytes) -> Iterable[Sighting]:
    """First sightings of a segment; what cannot be decoded has none (the window pass names it)."""
    for record, letter in zip(records, dispositions, strict=False):
        if letter in FIRST_SIGHTINGS and record.value is not None:
            try:
                said = _identity(record.value)
            except (msgspec.MsgspecError, UnicodeError):
                continue
            key = identity_key(said.project, said.live, said.source, said.id)
            yield Sighting(key, record.offset, f"event {said.id} of {said.source} in {said.project}", said.time)


def summed(found: Iterable[Sighting]) -> Sums:
    count = high = low = offsets = 0
    for key, offset, _, _ in found:
        hashed = int.from_bytes(key[:8], "big")
        count += 1
        high += hashed >> 32
        low += hashed & 0xFFFF_FFFF
        offsets += offset
    return Sums(count, high, low, offsets)


def plus(one: Sums, other: Sums) -> Sums:
    return Sums(one.events + other.events, one.high + other.high, one.low + other.low, one.offsets + other.offsets)


def differences(partition: int, archive: Iterable[Sighting], stored: Mapping[int, bytes]) -> list[Finding]:
    """`stored`: key by offset, of the identities that point into the block."""
    findings = []
    left = dict(stored)
    for key, offset, name, _ in archive:
        there = left.pop(offset, None)
        if there != key:
            text = (
                f"{name} was counted at partition {partition}, offset {offset}, but its identity is not remembered for "
                "that: sent again, it would count again"
            )
            findings.append(of_offsets(FindingClass.IDENTITY_MISSING, partition, offset, offset, text, event=name))
            if there is not None:
                left[offset] = there
    for offset, key in sorted(left.items()):
        text = (
            f"identity {key.hex()} says that it was counted at partition {partition}, offset {offset}; "
            "the archive says otherwise"
        )
        findings.append(of_offsets(FindingClass.IDENTITY_SURPLUS, partition, offset, offset, text, identity=key.hex()))
    return findings
