"""How late it is where the records of one partition come from.

Records tell by their minutes, so a backlog is judged by its own time and not by the clock on the wall. Where no
records come at all, time goes on only while the log is known to have ended: an hour without Kafka makes nobody silent.
"""

from __future__ import annotations

from dataclasses import dataclass

AHEAD_S = 60.0  # what a record may say beyond its append time; a process whose clock is wrong moves nobody's time


@dataclass(slots=True)
class StreamClock:
    """`now_s`: seconds since the epoch; 0 before anything is known. Never goes back."""

    now_s: float = 0.0

    def saw(self, minute: int, appended_s: float) -> None:
        """A record tells of this minute (since the epoch), which is over."""
        self.now_s = max(self.now_s, min((minute + 1) * 60, appended_s + AHEAD_S))

    def waited(self, seconds: float) -> None:
        """So long there was nothing to read, and nothing unread either."""
        if self.now_s:
            self.now_s += seconds
