"""One at a time over the same Razorpay object, whether or not we have a row for it.

A payment may be stored by one transaction while another stores the id of the link it pays: each would miss what the
other has not committed, and the payment would stay parked for ever. Both therefore take the lock of every object
they name, before they read. Objects share a fixed number of locks, so a batch of any size takes few; they are taken
in ascending order, so two transactions never wait for each other crosswise.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from services.payments import link_store
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


async def lock_objects_and_told_orders(connection: Connection, object_ids: Iterable[str]) -> None:
    """`lock_objects`, and with them the orders that webhooks have told of these links: `learn` may bring those."""
    wanted = set(object_ids)
    told = await link_store.told_orders(connection, wanted)
    await lock_objects(connection, wanted | told)
    # Told between our look and our lock; from here on the link's lock keeps the fact as it is. This lock comes out of
    # order: should that ever deadlock, Postgres ends one of the two, and it is tried again.
    late = await link_store.told_orders(connection, wanted) - told
    await lock_objects(connection, late)
