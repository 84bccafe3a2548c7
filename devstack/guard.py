"""Ends a parent's children once the parent is gone, where the kernel cannot do it (not Linux).

Its standard input is a pipe that only the parent and children about to start hold open. Lines:
`+PID SIGNAL` a child has started, `-PID` it has been reaped. At end of file the parent is gone:
every child left gets its signal, and SIGKILL if it is still there after GRACE_S seconds.

Run by file name in an isolated interpreter, so it imports nothing of Khata:

    python -I -S guard.py GRACE_S
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable

POLL_S = 0.05


def main(lines: Iterable[str], grace_s: float) -> None:
    children: dict[int, int] = {}
    for line in lines:
        pid, _, orphan_signal = line[1:].strip().partition(" ")
        if line.startswith("+"):
            children[int(pid)] = int(orphan_signal)
        else:
            children.pop(int(pid), None)
    end(children, grace_s)


def end(children: dict[int, int], grace_s: float) -> None:
    left = {pid for pid, orphan_signal in children.items() if send(pid, orphan_signal)}
    deadline = time.monotonic() + grace_s
    while left and time.monotonic() < deadline:
        left = {pid for pid in left if send(pid, 0)}
        time.sleep(POLL_S)
    for pid in left:
        send(pid, signal.SIGKILL)


def send(pid: int, number: int) -> bool:
    """Signal the child's whole process group; False when nothing of it is left."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return number == 0  # macOS answers so for a group of which only a zombie is left, and for a foreign account
    return True


if __name__ == "__main__":
    main(sys.stdin, float(sys.argv[1]))
