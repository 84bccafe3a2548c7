"""After a failure nobody waits for the next one; one caller at a time finds out whether it is over."""

from __future__ import annotations

import pytest

from shared.runtime.breaker import Breaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(first_pause_s=1.0, most_pause_s=4.0, clock=clock)


def test_it_lets_everyone_through_until_a_failure(breaker: Breaker) -> None:
    assert all(breaker.allows() for _ in range(10))
    breaker.failure()
    assert not any(breaker.allows() for _ in range(10))


def test_after_the_pause_one_caller_tries_and_the_others_are_told_no(breaker: Breaker, clock: Clock) -> None:
    breaker.failure()
    clock.now += 1.0
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    breaker.success()
    assert breaker.closed
    assert all(breaker.allows() for _ in range(3))


def test_each_failed_try_doubles_the_pause_up_to_a_limit(breaker: Breaker, clock: Clock) -> None:
    pauses = []
    for _ in range(4):
        breaker.failure()
        began = clock.now
        while not breaker.allows():
            clock.now += 0.5
        pauses.append(clock.now - began)
    assert pauses == [1.0, 2.0, 4.0, 4.0]


def test_a_success_forgets_the_pauses(breaker: Breaker, clock: Clock) -> None:
    for _ in range(3):
        breaker.failure()
        clock.now += 4.0
        assert breaker.allows()
    breaker.success()
    breaker.failure()
    clock.now += 1.0
    assert breaker.allows()
