"""Step b of the close barrier: no spool holds an event that was accepted before the close began.

Every spool is announced in `spools.v1` before it may accept, and speaks every few seconds. One that is silent, or
still holds older events, stops the close; `khata spools drain` empties it, `khata spools waive` goes on without it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime

from services.invoicer.progress import Progress, Stage
from services.invoicer.waivers import waived_until
from shared.contracts.messages.spool import SpoolState
from shared.domain.errors import Retryable
from shared.postgres.pool import Database
from shared.runtime.settings import KafkaSettings
from shared.spool.known import known_spools

LOOK_EVERY_S = 0.5


async def wait(
    kafka: KafkaSettings,
    database: Database,
    began: datetime,
    progress: Progress,
    deadline: float,
    deadline_s: float,
) -> None:
    """Return when no spool holds anything accepted before `began`.

    Raises Retryable naming the spools that do, or that have not spoken since; BrokerAway, DatabaseAway.
    """
    while True:
        states = await known_spools(kafka)
        async with database.connection() as connection:
            waived = await waived_until(connection)
        waiting = [state for state in states.values() if holds_up(state, began, waived)]
        progress(Stage("spools are empty", len(states) - len(waiting), len(states)))
        if not waiting:
            return
        if time.monotonic() >= deadline:
            raise Retryable(_too_late(waiting, began, deadline_s))
        await asyncio.sleep(LOOK_EVERY_S)


def holds_up(state: SpoolState, began: datetime, waived: Mapping[str, datetime]) -> bool:
    """Whether the close must wait for this spool. Pure."""
    if state.retired:
        return False
    if state.spool_id in waived and state.as_of <= waived[state.spool_id]:
        return False  # silent since an operator said not to wait; when it speaks again it is asked again
    return state.as_of <= began or state.has_unsent_before(began)


def _too_late(waiting: list[SpoolState], began: datetime, deadline_s: float) -> str:
    told = "; ".join(
        f"{state.spool_id} of {state.instance} "
        + (
            f"holds {state.unsent_events} events accepted since {state.oldest_unsent_at:%Y-%m-%d %H:%M:%S} UTC"
            if state.has_unsent_before(began) and state.oldest_unsent_at is not None
            else f"has been silent since {state.as_of:%Y-%m-%d %H:%M:%S} UTC"
        )
        for state in sorted(waiting, key=lambda state: state.spool_id)
    )
    return (
        f"after {deadline_s:g} s there are spools to wait for: {told}. Nothing was sealed. Start their process, or "
        "`khata spools drain FILE`; if the disk is gone, `khata spools waive ID --reason ...`; then close again"
    )
