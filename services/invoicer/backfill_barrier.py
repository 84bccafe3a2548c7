"""A step of the close barrier: no meter is being back-filled, for its windows would lack what was before it.

Any meter, also one that is not billed: it stands on the invoice, and counting again must find the same.
"""

from __future__ import annotations

import asyncio
import time

from services.invoicer.progress import Progress, Stage
from shared.domain.errors import Retryable
from shared.postgres.pool import Database
from shared.usage.seal import still_filling, unfinished_meters

LOOK_EVERY_S = 0.2


async def wait(database: Database, progress: Progress, deadline_s: float) -> None:
    """Return when no back-fill runs. Raises Retryable after `deadline_s`, DatabaseAway."""
    deadline = time.monotonic() + deadline_s
    while True:
        async with database.connection() as connection:
            meters = await unfinished_meters(connection)
        if not meters:
            return
        progress(Stage(f"back-fill of {', '.join(meters)}"))
        if time.monotonic() >= deadline:
            raise Retryable(still_filling(meters))
        await asyncio.sleep(LOOK_EVERY_S)
