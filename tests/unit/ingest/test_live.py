"""Who lives is counted by the order of the log; no clock, so Kafka may be away as long as it likes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.live import GONE_AFTER, Live
from shared.contracts.messages.process import Beat

OWN = Beat("me")


def test_alone_until_another_is_heard_and_alone_again_when_it_leaves() -> None:
    live = Live("me")
    assert live.count() == 1
    live.hear(Beat("a"))
    live.hear(Beat("b"))
    assert live.count() == 3
    live.hear(Beat("a", leaving=True))
    live.hear(Beat("never seen", leaving=True))
    assert live.count() == 2


def test_who_is_killed_is_gone_after_so_many_own_beats() -> None:
    live = Live("me")
    live.hear(Beat("killed"))
    for _ in range(GONE_AFTER):
        live.hear(OWN)
        assert live.count() == 2
    live.hear(OWN)
    assert live.count() == 1


@given(st.lists(st.sampled_from(["me", "a", "b"]), max_size=200))
def test_who_beats_as_often_as_we_do_is_never_lost(order: list[str]) -> None:
    live = Live("me")
    live.hear(Beat("a"))
    for name in order:
        live.hear(Beat(name))
        live.hear(Beat("a"))
        assert 2 <= live.count() <= 3


def test_it_is_ready_once_its_own_beat_came_back() -> None:
    live = Live("me")
    live.hear(Beat("a"))
    assert not live.ready.is_set()
    live.hear(OWN)
    assert live.ready.is_set()
