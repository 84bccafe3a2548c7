"""Step d of the close barrier: no window of the month waits to be looked at again after a correction.

The aggregator does that within a second or two; here it is only waited for. What is marked between this look and the
seal is found by the seal itself, which holds the epoch lock, and looked at again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from services.invoicer.progress import Progress, Stage
from shared.domain.errors import Retryable
from shared.domain.period import Month
from shared.postgres.pool import Database
from shared.usage.seal import Dirty, dirty_windows

LOOK_EVERY_S = 0.2


async def wait(
    database: Database, month: Month, block: Sequence[str], progress: Progress, deadline: float, deadline_s: float
) -> None:
    """Return when no window of the month and these organisations is dirty. Raises Retryable, DatabaseAway."""
    while True:
        async with database.connection() as connection:
            dirty = await dirty_windows(connection, month, block)
        progress(Stage("corrected windows are looked at again", 0, dirty.windows))
        if not dirty.windows:
            return
        if time.monotonic() >= deadline:
            raise Retryable(_too_late(dirty, month, deadline_s))
        await asyncio.sleep(LOOK_EVERY_S)


def _too_late(dirty: Dirty, month: Month, deadline_s: float) -> str:
    return (
        f"{dirty.windows} windows of {month} ({', '.join(dirty.organisations)}) wait after {deadline_s:g} s to be "
        "looked at again, because their events were corrected. Nothing was sealed. Look at `khata run aggregator` (its "
        "log says `corrections.` and why) and `khata corrections dirty`, then run the close again"
    )
