"""Dead letters in Postgres: add, select, sum up, claim, mark. SQL only; what to do with them is `redrive.py`'s.

A selection is made once, as a list of ids: what an operator was shown is what is done, whatever arrives meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row, dict_row

from services.aggregator.dead_letters.letter import Letter
from shared.contracts.headers import Headers
from shared.kafka.producer import MAX_RECORD_BYTES
from shared.postgres.outbox import OutboxMessage
from shared.postgres.pool import Connection


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters; None and () do not narrow it. `topic` and `group` are real (prefixed) names."""

    ids: tuple[int, ...] = ()
    topic: str | None = None
    code: str | None = None
    project: str | None = None
    group: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    state: str | None = "open"
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """One letter of a selection, and how much there is to send."""

    id: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Summary:
    """A topic and code of a selection. `fixed` cannot be sent again: their values are truncated or too large."""

    topic: str
    code: str
    letters: int
    bytes: int
    oldest: datetime
    newest: datetime
    fixed: int
    sealed: int
    perhaps_sent: int


@dataclass(frozen=True, slots=True)
class SealedMonth:
    """How many letters of a selection are events of a month that is sealed."""

    organisation_id: str
    month: str
    letters: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """What is sent for one letter."""

    id: int
    organisation_id: str | None
    message: OutboxMessage


async def add(connection: Connection, letters: Sequence[Letter]) -> int:
    """Store what is not there yet; returns how many that were."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            INSERT INTO messaging.dead_letter (
                topic, partition, log_offset, origin_known, digest, original_at, key, value, header_names,
                header_values, truncated_from, damaged, attempt, consumer_group, service, version, error_class, code,
                error, failed_at, project_id, organisation_id, event_at, letter_partition, letter_offset
            ) VALUES (
                %s, %s, %s, %s, %s, %s, %s, %s, %s::bytea[], %s::bytea[], %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
                %s, (SELECT organisation_id FROM catalogue.project WHERE id = %s), %s, %s, %s
            )
            ON CONFLICT DO NOTHING
            """,
            [
                (
                    *(one.topic, one.partition, one.offset, one.origin_known, one.digest(), one.original_at),
                    *(one.key, one.value, [name.encode() for name, _ in one.headers]),
                    *([value for _, value in one.headers], one.truncated_from, one.damaged, one.attempt),
                    *(one.group, one.service, one.version, one.error_class, one.code, one.error, one.failed_at),
                    *(one.project, one.project, one.event_at, one.letter_partition, one.letter_offset),
                )
                for one in letters
            ],
        )
        return max(0, cursor.rowcount)


async def select(connection: Connection, wanted: Selection, *, newest_first: bool = False) -> list[Found]:
    """Letters of the selection in order of failure, `limit` of them at most."""
    cursor = await connection.execute(
        """
        SELECT id, octet_length(coalesce(value, '')) + octet_length(coalesce(key, ''))
        FROM messaging.dead_letter
        WHERE (%(ids)s::bigint[] = '{}' OR id = ANY(%(ids)s))
          AND (%(topic)s::text IS NULL OR topic = %(topic)s)
          AND (%(code)s::text IS NULL OR code = %(code)s)
          AND (%(project)s::text IS NULL OR project_id = %(project)s)
          AND (%(group)s::text IS NULL OR consumer_group = %(group)s)
          AND (%(since)s::timestamptz IS NULL OR failed_at >= %(since)s)
          AND (%(until)s::timestamptz IS NULL OR failed_at < %(until)s)
          AND (%(state)s::text IS NULL OR state = %(state)s)
        ORDER BY CASE WHEN %(down)s THEN NULL ELSE failed_at END, CASE WHEN %(down)s THEN NULL ELSE id END,
                 failed_at DESC, id DESC
        LIMIT %(limit)s
        """,
        {
            "ids": list(wanted.ids),
            "topic": wanted.topic,
            "code": wanted.code,
            "project": wanted.project,
            "group": wanted.group,
            "since": wanted.since,
            "until": wanted.until,
            "state": wanted.state,
            "down": newest_first,
            "limit": wanted.limit,
        },
    )
    return [Found(*row) for row in await cursor.fetchall()]


async def summaries(connection: Connection, ids: Sequence[int]) -> list[Summary]:
    """The selection by topic and code."""
    async with connection.cursor(row_factory=class_row(Summary)) as cursor:
        await cursor.execute(
            """
            SELECT topic, code, count(*) AS letters, min(failed_at) AS oldest, max(failed_at) AS newest,
                   sum(octet_length(coalesce(value, '')))::bigint AS bytes,
                   count(*) FILTER (
                       WHERE truncated_from IS NOT NULL OR octet_length(coalesce(value, '')) > %s
                   ) AS fixed,
                   count(sealed.id) AS sealed, count(sending_since) AS perhaps_sent
            FROM messaging.dead_letter AS letter
            LEFT JOIN messaging.dead_letter_of_sealed_month AS sealed ON sealed.id = letter.id
            WHERE letter.id = ANY(%s)
            GROUP BY topic, code ORDER BY topic, code
            """,
            (MAX_RECORD_BYTES, list(ids)),
        )
        return await cursor.fetchall()


async def sealed_months(connection: Connection, ids: Sequence[int]) -> list[SealedMonth]:
    """Which letters of the selection would become adjustments, by organisation and month."""
    async with connection.cursor(row_factory=class_row(SealedMonth)) as cursor:
        await cursor.execute(
            """
            SELECT organisation_id, format('%%s-%%s', year, lpad(month::text, 2, '0')) AS month, count(*) AS letters
            FROM messaging.dead_letter_of_sealed_month WHERE id = ANY(%s)
            GROUP BY 1, 2 ORDER BY 1, 2
            """,
            (list(ids),),
        )
        return await cursor.fetchall()


async def claim(
    connection: Connection, ids: Sequence[int], actor: str, *, sealed_too: bool, again: bool
) -> list[Claimed]:
    """Write down that these are about to be sent, and return what to send, in the order of the log.

    Left out is what may not be sent (any more): decided meanwhile unless `again`, truncated or too large, and, unless
    `sealed_too`, what falls into a month that was sealed meanwhile.
    """
    cursor = await connection.execute(
        """
        WITH claimed AS (
            UPDATE messaging.dead_letter SET sending_since = now(), sending_by = %(actor)s
            WHERE id = ANY(%(ids)s) AND (%(again)s OR state = 'open')
              AND (event_at IS NULL OR event_at > now() - interval '400 days') -- its identity may be given up by then
              AND truncated_from IS NULL AND octet_length(coalesce(value, '')) <= %(most)s
              AND (%(sealed_too)s OR NOT EXISTS (
                  SELECT FROM messaging.dead_letter_of_sealed_month AS sealed WHERE sealed.id = dead_letter.id
              ))
            RETURNING id, organisation_id, topic, partition, log_offset, key, value, header_names, header_values
        )
        SELECT id, organisation_id, topic, key, value, header_names, header_values FROM claimed
        ORDER BY topic, partition, log_offset, id
        """,
        {"ids": list(ids), "actor": actor, "again": again, "sealed_too": sealed_too, "most": MAX_RECORD_BYTES},
    )
    return [
        Claimed(row[0], row[1], OutboxMessage(row[2], row[3], row[4], _headers(row[5], row[6])))
        for row in await cursor.fetchall()
    ]


async def release(connection: Connection, ids: Sequence[int]) -> None:
    """They were certainly not sent."""
    await connection.execute(
        "UPDATE messaging.dead_letter SET sending_since = NULL, sending_by = NULL WHERE id = ANY(%s)", (list(ids),)
    )


async def mark_redriven(
    connection: Connection, ids: Sequence[int], places: Sequence[tuple[int, int]], actor: str, reason: str
) -> None:
    """They are in their topic again, at these (partition, offset)."""
    await connection.execute(
        """
        UPDATE messaging.dead_letter AS letter
        SET state = 'redriven', decided_at = now(), decided_by = %s, reason = %s, sending_since = NULL,
            sending_by = NULL, redriven_partition = sent.partition, redriven_offset = sent.log_offset
        FROM unnest(%s::bigint[], %s::integer[], %s::bigint[]) AS sent (id, partition, log_offset)
        WHERE letter.id = sent.id
        """,
        (actor, reason, list(ids), [place[0] for place in places], [place[1] for place in places]),
    )


async def drop(connection: Connection, ids: Sequence[int], actor: str, reason: str) -> list[tuple[int, str | None]]:
    """Close those that are open; (id, organisation) of each."""
    cursor = await connection.execute(
        """
        UPDATE messaging.dead_letter
        SET state = 'dropped', decided_at = now(), decided_by = %s, reason = %s
        WHERE id = ANY(%s) AND state = 'open' RETURNING id, organisation_id
        """,
        (actor, reason, list(ids)),
    )
    return [(row[0], row[1]) for row in await cursor.fetchall()]


async def rows(connection: Connection, ids: Sequence[int]) -> list[dict[str, Any]]:
    """What a list shows of each, in the order of `ids`."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            SELECT id, failed_at, topic, partition, log_offset AS offset, attempt, code, project_id AS project, state,
                   octet_length(value) AS bytes, consumer_group AS group, error
            FROM messaging.dead_letter WHERE id = ANY(%(ids)s::bigint[])
            ORDER BY array_position(%(ids)s::bigint[], id)
            """,
            {"ids": list(ids)},
        )
        return await cursor.fetchall()


async def whole(connection: Connection, id: int) -> tuple[dict[str, Any], Headers] | None:
    """Every column of one letter but its headers, and these; None without such a letter."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute("SELECT * FROM messaging.dead_letter WHERE id = %s", (id,))
        row = await cursor.fetchone()
    if row is None:
        return None
    return row, _headers(row.pop("header_names"), row.pop("header_values"))


async def open_by_code(connection: Connection) -> list[tuple[str, str, int, float]]:
    """(topic, code, letters, seconds since the oldest of them failed) of what is open."""
    cursor = await connection.execute(
        """
        SELECT topic, code, count(*), greatest(0, extract(epoch FROM now() - min(failed_at)))::double precision
        FROM messaging.dead_letter WHERE state = 'open' GROUP BY topic, code
        """
    )
    return [(row[0], row[1], row[2], row[3]) for row in await cursor.fetchall()]


async def purge(connection: Connection, most: int) -> int:
    """Forget up to `most` letters that were decided more than 400 days ago; returns how many went."""
    row = await (await connection.execute("SELECT messaging.purge_dead_letters(%s)", (most,))).fetchone()
    assert row is not None
    return int(row[0])


def _headers(header_names: Sequence[bytes], values: Sequence[bytes]) -> Headers:
    return tuple((bytes(name).decode(), bytes(value)) for name, value in zip(header_names, values, strict=True))
