"""Each answered send in exactly one class, by what Khata knows of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from cli.demo.journal import Sent
from shared.domain.identity import identity_key, payload_fingerprint, read_data


@dataclass(frozen=True, slots=True)
class Known:
    """What Khata has: identities with their fingerprints, conflicts, and places in the dead-letter topic."""

    identities: Mapping[bytes, int]
    conflicts: frozenset[tuple[bytes, int]]
    dead_letters: frozenset[tuple[int, int]]


@dataclass
class Classes:
    """How many answered sends are what; `counted_sends` are those that stand."""

    accepted: int = 0
    rejected: int = 0
    counted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    dead_lettered: int = 0
    missing: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # good events that were rejected or dead-lettered
    counted_sends: list[Sent] = field(default_factory=list)


def key_of(sent: Sent) -> bytes:
    """Identity of a send of the demo; its keys are live keys."""
    return identity_key(sent.project, True, sent.source, sent.id)


def classify(sends: Iterable[Sent], known: Known) -> Classes:
    """`sends` in the order in which they were written down.

    counted: the first send of an identity that stands; duplicates: a further one that says the same; conflicts:
    one that says something else and is shown as such; dead_lettered: a record over Kafka whose place is in the
    dead-letter topic; missing: everything else that was answered with yes.
    """
    found = Classes()
    stands: set[bytes] = set()
    for sent in sends:
        if sent.answer == "rejected":
            found.rejected += 1
            _note_good(found.refused, sent)
            continue
        found.accepted += 1
        place = (sent.partition, sent.log_offset)
        if place in known.dead_letters:
            found.dead_lettered += 1
            _note_good(found.refused, sent)
            continue
        key = key_of(sent)
        fingerprint = payload_fingerprint(sent.type, sent.subject, read_data(sent.data.encode())) if sent.id else None
        standing = known.identities.get(key)
        if fingerprint is not None and fingerprint == standing and key not in stands:
            stands.add(key)
            found.counted += 1
            found.counted_sends.append(sent)
        elif fingerprint is not None and fingerprint == standing:
            found.duplicates += 1
        elif standing is not None and fingerprint is not None and (key, fingerprint) in known.conflicts:
            found.conflicts += 1
        else:
            found.missing.append(_told(sent))
    return found


def _note_good(refused: list[str], sent: Sent) -> None:
    """Only what the producers meant to be wrong has no identity in the journal."""
    if sent.id:
        refused.append(_told(sent))


def _told(sent: Sent) -> str:
    return f"send {sent.number}: {sent.source}/{sent.id} of {sent.project} over {sent.door}"


def totals(sends: Iterable[Sent], value_path: str | None) -> tuple[int, Decimal]:
    """Count and sum of what the producers say they sent: added up without any of Khata's counting code."""
    count, total = 0, Decimal(0)
    for sent in sends:
        count += 1
        value: Any = 1 if value_path is None else read_data(sent.data.encode())
        for step in value_path.split(".") if value_path else ():
            value = value[step]
        total += Decimal(value)
    return count, total
