"""Named places where a test or the demo may hold a process, to kill it exactly there.

Off unless `KHATA_FAILPOINTS_DIR` names a folder. Whoever wants a hit creates `<point>.armed` in it
(holding a pid, when only that process is meant); the first process that reaches the point renames it to
`<point>.hit-<pid>` and waits there until it is killed (or 10 s, so that a forgotten hit does not stop a
stack for ever). `held` is how a test or the demo sees the hit; with `KHATA_FAILPOINTS_SEEN` it leaves a file
of that name in that folder, so that the suite can tell which points were really reached.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

POINTS: dict[str, str] = {
    "ingest.http.before_ack": "events are on their way to Kafka, the request is not answered",
    "ingest.door.before_commit": "raw records are forwarded and acked, the position is not committed",
    "aggregator.batch.after_offsets": "the transaction has moved the offsets, nothing else",
    "aggregator.batch.before_commit": "everything is written, the transaction is not committed",
    "aggregator.batch.after_commit": "the transaction is committed, Kafka does not know the offset",
    "aggregator.generation.before_roll": "the open generation is closed and the next one opened, not committed",
    "aggregator.generation.before_count": "a closed generation is frozen, its keys are not counted",
    "aggregator.generation.before_drop": "a generation is detached, its table is not dropped",
    "aggregator.filter.before_rename": "a filter is written and fsynced, it is not in its place",
    "aggregator.windows.before_send": "changed windows are read again, nothing is sent",
    "aggregator.windows.before_mark": "changed windows are acked by Kafka, the cursor is not moved",
    "aggregator.backfill.before_commit": "a slice is in the windows and the progress has moved, not committed",
    "aggregator.backfill.after_commit": "a slice is committed, the next one is not read",
    "aggregator.redrive.before_mark": "dead letters are sent again and acked, they are not marked as redriven",
    "aggregator.dirty.after_refold": "a dirty window is folded again, nothing is written",
    "aggregator.dirty.before_commit": "a dirty window has new extremes and is clean, not committed",
    "aggregator.waiting.before_commit": "parked corrections whose targets came elsewhere are settled, not committed",
    "invoicer.close.after_seal": "the month is sealed, no invoice exists",
    "invoicer.finalize.before_commit": "number allotted, posting and outbox written, not committed",
    "outbox.relay.before_mark": "messages are acked by Kafka, their rows are not marked",
    "payments.intent.before_call": "the intent is claimed, Razorpay is not called",
    "payments.intent.after_call": "Razorpay has acted, the outcome is not stored",
    "payments.apply.before_commit": "a webhook's effect is written, not committed",
    "spool.append.before_commit": "events are written into the spool, not committed",
    "spool.append.after_commit": "events are fsynced in the spool, nobody is answered",
    "spool.forward.before_ack": "events of the spool are about to be sent to Kafka, no ack is known",
    "spool.forward.before_mark": "events of the spool are acked by Kafka, their rows are not marked",
    "spool.purge.before_delete": "rows of the spool are found consumed, nothing is deleted",
    "receiver.before_ack": "a verified webhook is on its way to Kafka, the delivery is not answered",
}

HOLD_S = 10.0
SEEN = "KHATA_FAILPOINTS_SEEN"

_folder = os.environ.get("KHATA_FAILPOINTS_DIR")


async def failpoint(name: str) -> None:
    """Wait here when `name` is armed; free of cost when failpoints are off."""
    if _folder is None:
        return
    hit = _taken(_folder, name)
    if hit is not None:
        await asyncio.sleep(HOLD_S)
        hit.unlink(missing_ok=True)


def failpoint_in_thread(name: str) -> None:
    """The same for a thread without an event loop: it blocks the thread."""
    if _folder is None:
        return
    hit = _taken(_folder, name)
    if hit is not None:
        time.sleep(HOLD_S)
        hit.unlink(missing_ok=True)


def _taken(folder: str, name: str) -> Path | None:
    """The hit, when the point is armed for this process and no other was first."""
    assert name in POINTS, f"{name} is not in the list of failpoints"
    armed = Path(folder) / f"{name}.armed"
    hit = armed.with_name(f"{name}.hit-{os.getpid()}")
    try:
        if armed.read_text() not in ("", str(os.getpid())):
            return None
        armed.rename(hit)
    except FileNotFoundError:
        return None
    return hit


def arm(folder: Path, name: str, pid: int | None = None) -> Path:
    """Arm a failpoint for any process, or for one."""
    assert name in POINTS, f"{name} is not in the list of failpoints"
    new = folder / f"{name}.new"
    new.write_text("" if pid is None else str(pid))
    return new.rename(folder / f"{name}.armed")


async def held(folder: Path, name: str, deadline_s: float = 20.0) -> int:
    """Wait until a process is held at an armed failpoint; returns its pid. Raises TimeoutError."""
    async with asyncio.timeout(deadline_s):
        while (pid := _held_pid(folder, name)) is None:
            await asyncio.sleep(0.01)
    if seen := os.environ.get(SEEN):
        (Path(seen) / name).touch()
    return pid


def _held_pid(folder: Path, name: str) -> int | None:
    for found in folder.glob(f"{name}.hit-*"):
        found.unlink(missing_ok=True)
        return int(found.name.rpartition("-")[2])
    return None
