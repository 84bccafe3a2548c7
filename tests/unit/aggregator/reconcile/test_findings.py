"""What a run keeps of what it has found, and the comparisons that have no file of their own."""

from __future__ import annotations

from datetime import UTC, datetime

from services.aggregator.reconcile import spools
from services.aggregator.reconcile.finding import CHECK_OF, MOST_KEPT, Check, FindingClass, Findings, of_offsets
from services.aggregator.reconcile.identities import Sighting, differences, plus, summed
from shared.contracts.messages.spool import SpoolState

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def test_all_are_counted_and_the_first_are_kept_each_once() -> None:
    one, other = Findings(), Findings()
    for number in range(MOST_KEPT + 10):
        one.add(of_offsets(FindingClass.ARCHIVE_DIFFERS, 0, number, number, "x"))
    one.add(of_offsets(FindingClass.ARCHIVE_DIFFERS, 0, 1, 1, "x"))
    other.add(of_offsets(FindingClass.CONSERVATION, 0, 1, 1, "x"))
    other.absorb(one)
    assert other.counts == {FindingClass.ARCHIVE_DIFFERS: MOST_KEPT + 10, FindingClass.CONSERVATION: 1}
    assert (other.of(Check.ARCHIVE), other.of(Check.WINDOWS)) == (MOST_KEPT + 10, 0)
    assert len(other.kept) == MOST_KEPT
    assert not other.all_kept


def test_every_class_belongs_to_a_check() -> None:
    assert set(CHECK_OF) == set(FindingClass)


def test_identities_and_sightings_are_held_against_each_other_by_key_and_place() -> None:
    seen = [Sighting(bytes([n]) * 16, n, f"e{n}", NOW) for n in range(4)]
    assert plus(summed(seen[:1]), summed(seen[1:])) == summed(reversed(seen))
    assert differences(0, seen, {one.offset: one.key for one in seen}) == []
    found = differences(0, seen, {0: seen[0].key, 1: b"x" * 16, 3: seen[3].key, 7: b"y" * 16})
    assert [(each.found, each.first_offset) for each in found] == [
        (FindingClass.IDENTITY_MISSING, 1),
        (FindingClass.IDENTITY_MISSING, 2),
        (FindingClass.IDENTITY_SURPLUS, 1),
        (FindingClass.IDENTITY_SURPLUS, 7),
    ]


def spool(forwarded: int, lost: int = 0) -> SpoolState:
    return SpoolState(
        spool_id="s1",
        instance="edge",
        as_of=NOW,
        oldest_unsent_at=None,
        unsent_events=0,
        unsent_bytes=0,
        set_aside_events=0,
        accepted_total=forwarded,
        forwarded_total=forwarded,
        lost_total=lost,
        fingerprint=(0, 0),
        forwarded_fingerprint=(0, 0),
        file_bytes=1,
        cap_bytes=1,
        retired=False,
    )


def test_a_spool_is_compared_only_with_a_whole_log_and_more_in_it_is_no_finding() -> None:
    assert spools.compare([spool(5)], {"s1": 6}, whole_log=True) == []
    [missing] = spools.compare([spool(5)], {"s1": 4}, whole_log=True)
    assert missing.found is FindingClass.SPOOL_MISSING
    assert spools.compare([spool(5)], {}, whole_log=False) == []
    [lost] = spools.compare([spool(5, lost=2)], {"s1": 5}, whole_log=False)
    assert lost.found is FindingClass.SPOOL_LOST
