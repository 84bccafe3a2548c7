"""Each answered send is in exactly one class."""

from __future__ import annotations

from dataclasses import replace

from cli.demo.classify import Known, classify, key_of
from cli.demo.journal import Sent
from shared.domain.identity import payload_fingerprint, read_data

GOOD = Sent(1, "http", "p", "demo", "1", "t", "alice", '{"tokens": 1}', "accepted", None, None)


def fingerprint(sent: Sent) -> int:
    return payload_fingerprint(sent.type, sent.subject, read_data(sent.data.encode()))


def known(*standing: Sent, conflicts: tuple[Sent, ...] = (), dead: frozenset[tuple[int, int]] = frozenset()) -> Known:
    return Known(
        {key_of(sent): fingerprint(sent) for sent in standing},
        frozenset((key_of(sent), fingerprint(sent)) for sent in conflicts),
        dead,
    )


def test_the_first_send_that_stands_is_counted_and_the_same_again_is_a_duplicate() -> None:
    found = classify([GOOD, replace(GOOD, number=2)], known(GOOD))
    assert (found.accepted, found.counted, found.duplicates, found.missing) == (2, 1, 1, [])


def test_another_payload_is_a_conflict_only_when_it_is_shown_as_one() -> None:
    other = replace(GOOD, number=2, data='{"tokens": 2}')
    assert classify([GOOD, other], known(GOOD, conflicts=(other,))).conflicts == 1
    hidden = classify([GOOD, other], known(GOOD))
    assert (hidden.conflicts, len(hidden.missing)) == (0, 1)


def test_what_is_nowhere_is_missing() -> None:
    found = classify([GOOD], known())
    assert (found.counted, len(found.missing)) == (0, 1)


def test_a_bad_record_in_the_dead_letter_topic_is_fine_and_a_good_one_there_is_told() -> None:
    bad = replace(GOOD, id="", door="kafka", partition=0, log_offset=7)
    good = replace(GOOD, door="kafka", partition=0, log_offset=8)
    found = classify([bad, good], known(GOOD, dead=frozenset({(0, 7), (0, 8)})))
    assert found.dead_lettered == 2
    assert len(found.refused) == 1


def test_a_good_event_that_was_rejected_is_told() -> None:
    found = classify([replace(GOOD, answer="rejected")], known())
    assert (found.rejected, found.accepted, len(found.refused)) == (1, 0, 1)
