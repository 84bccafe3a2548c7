"""A rate limit as one number: the generic cell rate algorithm (ITU-T I.371, Annex A). Pure: the clock is an argument.

The bucket remembers when it will be full again (the theoretical arrival time). Everything is whole numbers, so a wait
that was told is exact: time is counted in nanoseconds times the rate, one event costs a second of it.
"""

from __future__ import annotations

_SECOND_NS = 1_000_000_000


class Gcra:
    """At most `burst` events at once and `per_second` in the long run, divided among so many processes.

    This process's share of the burst is rounded up. A call larger than the share, but not than the burst, passes
    when the bucket is full, and what follows waits until it is paid for.
    """

    __slots__ = ("_burst", "_cost", "_full_at", "_rate", "burst", "per_second", "processes", "share")

    def __init__(self, per_second: int, burst: int, processes: int = 1) -> None:
        self.per_second, self.burst, self.processes = per_second, burst, processes
        self.share = -(-burst // processes)
        self._rate = per_second
        self._cost = _SECOND_NS * processes
        self._burst = self.share * self._cost
        self._full_at = 0

    def wait_ns(self, events: int, now_ns: int) -> int:
        """How long this many must wait, 0 when they may pass now; nothing is taken."""
        debt = self._full_at - now_ns * self._rate
        if debt <= 0:
            return 0
        over = debt + min(events * self._cost, self._burst) - self._burst
        return 0 if over <= 0 else -(-over // self._rate)

    def take(self, events: int, now_ns: int) -> int:
        """Take them and return 0, or take nothing and return how many nanoseconds to wait."""
        now = now_ns * self._rate
        cost = events * self._cost
        start = self._full_at
        if start <= now:  # full
            self._full_at = now + cost
            return 0
        over = start - now + (cost if cost < self._burst else self._burst) - self._burst
        if over <= 0:
            self._full_at = start + cost
            return 0
        return -(-over // self._rate)

    def left(self, now_ns: int) -> tuple[int, int]:
        """How many events could pass now, and in how many nanoseconds the whole burst is there again."""
        debt = self._full_at - now_ns * self._rate
        if debt <= 0:
            return self.share, 0
        free = self._burst - debt
        return (free // self._cost if free > 0 else 0), -(-debt // self._rate)

    def changed(self, per_second: int, burst: int, processes: int, now_ns: int) -> Gcra:
        """The same bucket under another limit: as many events stay taken."""
        new = Gcra(per_second, burst, processes)
        debt = max(0, self._full_at - now_ns * self._rate)
        new._full_at = now_ns * per_second + debt * new._cost // self._cost
        return new
