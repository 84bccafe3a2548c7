"""`GET /v1/meters/{meter}/usage` and `GET /v1/events/...`: what a key of scope `usage:read` may see of its project.

A key reads live usage if it is a live key, and test usage if it is a test key. Errors are RFC 9457 problems.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.console.parameters import SEPARATOR, usage_query
from services.console.trace import trace_event
from shared.catalogue.authenticate import authenticate
from shared.catalogue.cache import CatalogueCache
from shared.contracts.messages.catalogue import ApiKeyMessage
from shared.contracts.topics import Names
from shared.domain.errors import DatabaseAway, Rejected, Retryable, Usage
from shared.domain.period import time_zone
from shared.observability import logging
from shared.postgres.meters import read_meters
from shared.postgres.pool import Connection, Database
from shared.runtime.problems import problem
from shared.usage.query import UsageQuery, UsageRow, query_usage
from shared.usage.seal import unfinished_meters

SCOPE = "usage:read"
STATEMENT_S = 10
INCOMPLETE = "khata-incomplete"  # the meter is new and still counts what was before it
STATUS = {
    "unauthenticated": HTTPStatus.UNAUTHORIZED,
    "forbidden": HTTPStatus.FORBIDDEN,
    "unknown_meter": HTTPStatus.NOT_FOUND,
    "not_seen": HTTPStatus.NOT_FOUND,
    "invalid_parameter": HTTPStatus.BAD_REQUEST,
}

log = logging.get(__name__)


@dataclass(frozen=True, slots=True)
class Door:
    """What answers are made of."""

    names: Names
    peppers: dict[str, bytes]
    cache: CatalogueCache
    database: Database


Answering = Callable[[Door, Request, ApiKeyMessage], Awaitable[Response]]


def app(door: Door) -> Starlette:
    routes = {
        "/v1/meters/{meter}/usage": _usage,
        "/v1/events": _event,
        "/v1/events/{source:path}/{id}": _event,
    }
    return Starlette(
        routes=[Route(path, _guarded(door, answering), methods=["GET"]) for path, answering in routes.items()],
        exception_handlers={HTTPException: _elsewhere},
    )


def _guarded(door: Door, answering: Answering) -> Callable[[Request], Awaitable[Response]]:
    """Lets keys of the scope in, and tells what is wrong."""

    async def answer(request: Request) -> Response:
        try:
            key = await authenticate(request.headers.get("authorization"), door.cache, door.peppers, SCOPE)
            return await answering(door, request, key)
        except Rejected as error:
            response: Response = problem(
                STATUS.get(error.code, HTTPStatus.UNPROCESSABLE_ENTITY), error.code, error.message
            )
            if error.code == "unauthenticated":
                response.headers["www-authenticate"] = "Bearer"
            return response
        except Usage as error:
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_period", str(error))
        except (Retryable, DatabaseAway) as error:
            log.warning("console.unavailable", error=str(error))
            response = problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "Not now: ask again.")
            response.headers["retry-after"] = "2"
            return response

    return answer


async def _usage(door: Door, request: Request, key: ApiKeyMessage) -> Response:
    meter_id = request.path_params["meter"]
    organisation = door.cache.organisations.get(key.organisation_id)
    if organisation is None:
        raise Retryable("the catalogue does not have the organisation of this key yet")
    query, as_csv = usage_query(
        request.query_params, request.headers.get("accept", ""), key, meter_id, time_zone(organisation.time_zone)
    )
    async with door.database.transaction() as connection:
        await _read_only(connection)
        meters = [meter for meter in await read_meters(connection) if meter.id == meter_id]
        if not meters:
            raise Rejected("unknown_meter", f"there is no meter {meter_id!r}")
        rows = await query_usage(connection, meters, query)
        incomplete = meter_id in await unfinished_meters(connection)
    headers = {INCOMPLETE: "true"} if incomplete else {}
    if as_csv:
        return Response(_csv(query, rows), media_type="text/csv", headers=headers)
    document = _document(query, rows) | ({"incomplete": True} if incomplete else {})
    return Response(orjson.dumps(document), media_type="application/json", headers=headers)


def _document(query: UsageQuery, rows: list[UsageRow]) -> dict[str, Any]:
    return {
        "meter": query.meter_id,
        "mode": "live" if query.live else "test",
        "from": query.start.astimezone(query.zone).isoformat(),
        "to": query.end.astimezone(query.zone).isoformat(),
        "window": query.window,
        "time_zone": query.zone.key,
        "rows": [
            {
                "start": row.start.astimezone(query.zone).isoformat(),
                "end": row.end.astimezone(query.zone).isoformat(),
                "meter_version": row.meter_version,
                "group": dict(zip(query.group_by, row.group, strict=True)),
                "events": row.events,
                "quantity": _text(row),
            }
            for row in rows
        ],
    }


def _csv(query: UsageQuery, rows: list[UsageRow]) -> str:
    """One line a row; a value that a spreadsheet would take for a formula is kept from being one (CWE-1236)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(["start", "end", "meter_version", *query.group_by, "events", "quantity"])
    for row in rows:
        group = ["" if value is None else _harmless(str(value)) for value in row.group]
        start, end = (instant.astimezone(query.zone).isoformat() for instant in (row.start, row.end))
        writer.writerow([start, end, row.meter_version, *group, row.events, _text(row)])
    return text.getvalue()


def _harmless(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _text(row: UsageRow) -> str | None:
    return None if row.quantity is None else f"{row.quantity:f}"


async def _event(door: Door, request: Request, key: ApiKeyMessage) -> Response:
    """By path, or with `?source=&id=` where one of them holds a slash."""
    named = request.path_params or request.query_params
    source, id = named.get("source"), named.get("id")
    if not source or not id:
        raise Rejected("invalid_parameter", f"ask for /v1/events{SEPARATOR}<source>{SEPARATOR}<id>, or ?source=&id=")
    async with door.database.transaction() as connection:
        await _read_only(connection)
        found = await trace_event(connection, door.names, key.project_id, key.live, source, id)
    if not found["stages"] and not found["dead_letters"] and not found["corrections"]:
        raise Rejected("not_seen", "no event with this source and id has been applied or refused; it may be on its way")
    return Response(orjson.dumps(found), media_type="application/json")


async def _read_only(connection: Connection) -> None:
    """One state of everything, and no question that takes for ever."""
    await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    await connection.execute(f"SET LOCAL statement_timeout = {STATEMENT_S * 1000}".encode())


async def _elsewhere(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    answer = problem(status, status.name.lower(), "Usage is at GET /v1/meters/{meter}/usage.")
    answer.headers.update(error.headers or {})
    return answer
