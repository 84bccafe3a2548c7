"""One at a time over the same Razorpay object, whether or not we have a row for it.

A payment may be stored by one transaction while another stores the id of the link it pays: each would miss what the
other has not committed, and the payment would stay parked for ever. Both therefore take the lock of every object
they name, before they read. Objects share a fixed number of locks, so a batch of any size takes few; they are taken
in ascending order, so two transactions never wait for each other crosswise.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from shared.postgres.pool import Connection

STRIPES = 1024
_CLASS = 0x706179  # "pay": the first half of the advisory lock's key


async def lock_objects(connection: Connection, object_ids: Iterable[str]) -> None:
    """Hold the locks of these orders, links and payments until the end of the transaction."""
    stripes = sorted({zlib.crc32(object_id.encode()) % STRIPES for object_id in object_ids})
    if stripes:
        # ordered inside a subselect: the locks are taken in the order in which the rows come
        await connection.execute(
            """
            SELECT pg_advisory_xact_lock(%s, stripe)
            FROM (SELECT stripe FROM unnest(%s::integer[]) AS stripe ORDER BY stripe) AS ordered
            """,
            (_CLASS, stripes),
        )
