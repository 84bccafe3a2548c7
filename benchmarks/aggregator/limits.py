"""What Postgres itself does with the same events: the merge from memory by one connection, and a plain COPY."""

from __future__ import annotations

import random
import time

import psycopg

from benchmarks.stack import BenchParts

BATCH, BATCHES = 10_000, 20


def merge_from_memory(parts: BenchParts, subjects: int) -> float:
    """Events/s of one connection: per batch COPY, identities by ON CONFLICT, windows by upsert, one offset row."""
    dice = random.Random(3)  # noqa: S311
    with psycopg.connect(parts.database_url) as connection:
        connection.execute("CREATE TABLE public.bench_key (key uuid PRIMARY KEY, fingerprint bigint)")
        connection.execute(
            "CREATE TABLE public.bench_window (subject text, hour integer, count bigint, sum numeric, "
            "PRIMARY KEY (subject, hour))"
        )
        connection.execute("CREATE TABLE public.bench_offset (partition integer PRIMARY KEY, next bigint)")
        connection.execute("INSERT INTO public.bench_offset VALUES (0, 0)")
        connection.execute("CREATE TEMP TABLE arrived (key uuid, subject text, hour integer, value numeric)")
        connection.commit()
        rows = [
            [
                (dice.randbytes(16).hex(), f"c{dice.randrange(subjects)}", batch // 10, number % 997)
                for number in range(BATCH)
            ]
            for batch in range(BATCHES)
        ]
        began = time.perf_counter()
        for batch in rows:
            connection.execute("TRUNCATE arrived")
            with connection.cursor().copy("COPY arrived FROM STDIN") as copy:
                for row in batch:
                    copy.write_row(row)
            connection.execute(
                """
                WITH fresh AS (
                    INSERT INTO public.bench_key SELECT key, 1 FROM arrived ON CONFLICT DO NOTHING RETURNING key
                )
                INSERT INTO public.bench_window AS w
                SELECT subject, hour, count(*), sum(value) FROM arrived JOIN fresh USING (key) GROUP BY subject, hour
                ON CONFLICT (subject, hour) DO UPDATE SET count = w.count + excluded.count, sum = w.sum + excluded.sum
                """
            )
            connection.execute("UPDATE public.bench_offset SET next = next + %s", (BATCH,))
            connection.commit()
        rate = BATCH * BATCHES / (time.perf_counter() - began)
        connection.execute("DROP TABLE public.bench_key, public.bench_window, public.bench_offset")
    return rate


def plain_copy(parts: BenchParts) -> float:
    """Rows/s of COPY into a table without an index."""
    rows = [(f"{number:012d}", f"c{number % 1000}", number, "x" * 120) for number in range(BATCH * BATCHES)]
    with psycopg.connect(parts.database_url) as connection:
        connection.execute("CREATE TABLE public.bench_copy (id text, subject text, value bigint, body text)")
        began = time.perf_counter()
        with connection.cursor().copy("COPY public.bench_copy FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        connection.commit()
        rate = len(rows) / (time.perf_counter() - began)
        connection.execute("DROP TABLE public.bench_copy")
    return rate
