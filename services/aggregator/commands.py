"""`khata anomalies`: what watch found unusual about keys and about hours of usage."""

from __future__ import annotations

from typing import Any

import typer

from shared.postgres.current import current_database
from shared.runtime.output import Output, OutputOption, show, wait_for
from shared.runtime.settings import DatabaseSettings, load

app = typer.Typer(help="What is unusual about keys and hours of usage.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """What is unusual about keys and hours of usage."""


@app.command("list")
def list_anomalies(
    project: str | None = typer.Option(None, help="of this project only"),
    limit: int = typer.Option(100, min=1, max=10_000, help="at most so many, the newest"),
    output: Output = OutputOption,
) -> None:
    """Findings, the newest first. Advice: nothing is billed, limited or refused because of one."""
    show(wait_for(_read(load(DatabaseSettings), project, limit)), output)


async def _read(settings: DatabaseSettings, project: str | None, limit: int) -> list[dict[str, Any]]:
    async with current_database(settings, "khata_reader", "anomalies") as database, database.connection() as connection:
        rows = await (
            await connection.execute(
                """
                SELECT minute, class, project_id, key_id, subject, meter_id, observed, usual,
                       quantity::text, usual_quantity::text, text, address, id
                FROM usage.anomaly
                WHERE %(project)s::text IS NULL OR project_id = %(project)s
                ORDER BY minute DESC, id LIMIT %(limit)s
                """,
                {"project": project, "limit": limit},
            )
        ).fetchall()
    columns = "minute class project key_id subject meter observed usual quantity usual_quantity text address id"
    return [dict(zip(columns.split(), (row[0].isoformat(), *row[1:]), strict=True)) for row in rows]
