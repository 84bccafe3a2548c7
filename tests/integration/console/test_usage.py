"""The read API: usage by windows, groups and filters, who may read it, and the story of one event."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from services.console import http
from shared.catalogue.cache import CatalogueCache
from shared.catalogue.keys import MadeKey
from shared.contracts.messages.catalogue import ApiKeyMessage, OrganisationMessage, encode_catalogue
from shared.contracts.topics import Names
from shared.domain.period import Month
from tests.support.backfill import fill, make
from tests.support.services import peppers
from tests.support.usage import Counting, counting, opened, seal_month, stamped
from tests.support.usage import catalogue_rows as store

OCTOBER = datetime(2026, 9, 30, 18, 30, tzinfo=UTC)  # in India
PERIOD = {"from": "2026-10-01", "to": "2026-11-01"}
DOCUMENT = {
    "organisations": [{"id": "acme", "name": "Acme", "state_code": "29"}],
    "projects": [{"id": "acme-app", "organisation": "acme"}],
    "meters": [
        {"id": "calls", "event_type": "call", "aggregation": "count"},
        {
            "id": "words",
            "event_type": "call",
            "aggregation": "sum",
            "value_path": "tokens",
            "group_by": {"model": "model", "fast": "fast"},
        },
        {"id": "users", "event_type": "call", "aggregation": "unique_count", "value_path": "user"},
        {"id": "seats", "event_type": "seat", "aggregation": "weighted_sum", "value_path": "change"},
    ],
}


@dataclass
class Reader:
    client: httpx2.AsyncClient
    keys: dict[str, str]
    count: Counting

    async def get(self, path: str, key: str = "reader", **parameters: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.keys[key]}"}
        return await self.client.get(path, params=parameters, headers=headers)

    async def usage(self, meter: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """(start, group, events, quantity) of each row; October unless said otherwise."""
        asked = PERIOD | parameters
        answer = await self.get(f"/v1/meters/{meter}/usage", **asked)
        assert answer.status_code == 200, answer.text
        rows = answer.json()["rows"]
        return [(row["start"], tuple(row["group"].values()), row["events"], row["quantity"]) for row in rows]


def call(id: str, day: int, hour: int, tokens: int, model: str | None, user: str, **more: Any) -> bytes:
    data = {"tokens": tokens, "user": user, "fast": tokens > 5} | ({} if model is None else {"model": model})
    return stamped(id, data=data, type="call", time=OCTOBER + timedelta(days=day - 1, hours=hour, minutes=7), **more)


@asynccontextmanager
async def reading(database_url: str) -> AsyncIterator[Reader]:
    async with opened(database_url, "khata_catalogue") as database, database.transaction() as connection:
        await store(connection, DOCUMENT)
    cache, keys = CatalogueCache(), {}
    cache.learn(encode_catalogue(OrganisationMessage("acme", 1, "Acme", "INR", "Asia/Kolkata")))
    for name, live, scopes in (
        ("reader", True, ("usage:read",)),
        ("trial", False, ("usage:read",)),
        ("writer", True, ("events:write",)),
    ):
        made = MadeKey.under(peppers(), live)
        keys[name] = made.text
        message = ApiKeyMessage(made.id, 1, "acme", "acme-app", live, made.secret_hash.hex(), made.pepper_id, scopes)
        cache.learn(encode_catalogue(message))
    cache.seen_end()
    async with counting(database_url) as count, opened(database_url, "khata_reader") as database:
        door = http.Door(Names(), peppers(), cache, database)
        transport = httpx2.ASGITransport(app=http.app(door))
        async with httpx2.AsyncClient(transport=transport, base_url="http://console") as client:
            yield Reader(client, keys, count)


async def planted(reader: Reader) -> None:
    await reader.count.apply(
        call("1", 1, 0, 3, "small", "a"),
        call("2", 1, 1, 10, "large", "b"),
        call("3", 2, 0, 4, "small", "a", subject="bob"),
        call("4", 2, 23, 7, None, "a"),
        call("5", 2, 0, 100, "small", "z", live=False),
    )


async def test_usage_by_hour_day_month_and_of_the_whole_period(database_url: str) -> None:
    async with reading(database_url) as reader:
        await planted(reader)
        assert await reader.usage("words") == [("2026-10-01T00:00:00+05:30", (), 4, "24")]
        assert await reader.usage("words", window="day") == [
            ("2026-10-01T00:00:00+05:30", (), 2, "13"),
            ("2026-10-02T00:00:00+05:30", (), 2, "11"),
        ]
        assert [row[0] for row in await reader.usage("calls", window="hour")] == [
            "2026-10-01T00:00:00+05:30",
            "2026-10-01T01:00:00+05:30",
            "2026-10-02T00:00:00+05:30",
            "2026-10-02T23:00:00+05:30",
        ]
        assert await reader.usage("calls", window="month", to="2026-12-01") == [
            ("2026-10-01T00:00:00+05:30", (), 4, "4")
        ]
        assert await reader.usage("users", window="day") == [
            ("2026-10-01T00:00:00+05:30", (), 2, "2"),
            ("2026-10-02T00:00:00+05:30", (), 2, "1"),
        ]
        assert await reader.usage("users") == [("2026-10-01T00:00:00+05:30", (), 4, "2")]


async def test_a_new_meter_says_that_it_is_incomplete_until_it_has_counted_what_was_before_it(
    database_url: str,
) -> None:
    async with reading(database_url) as reader:
        await planted(reader)
        await make(database_url, {"id": "pages", "event_type": "call", "aggregation": "sum", "value_path": "tokens"})
        for path in ("/v1/meters/pages/usage", "/v1/meters/words/usage"):
            answer = await reader.get(path, **PERIOD)
            incomplete = "pages" in path
            assert answer.json().get("incomplete", False) is incomplete
            assert answer.headers.get("khata-incomplete") == ("true" if incomplete else None)
        story = (await reader.get("/v1/events/test/1")).json()["stages"][-1]
        assert (story["backfill_will_count"], len(story["meters"])) == (["pages"], 3)
        await fill(database_url, reader.count.database)
        assert (await reader.get("/v1/meters/pages/usage", **PERIOD)).headers.get("khata-incomplete") is None
        assert await reader.usage("pages") == await reader.usage("words")
        story = (await reader.get("/v1/events/test/1")).json()["stages"][-1]
        assert ("backfill_will_count" in story, len(story["meters"])) == (False, 4)


async def test_an_event_that_no_meter_counted_has_its_story_go_on_once_one_has(database_url: str) -> None:
    async with reading(database_url) as reader:
        clip = {"id": "clips", "event_type": "clip", "aggregation": "count"}
        await reader.count.apply(stamped("c", type="clip", unmetered=True))
        assert (await reader.get("/v1/events/test/c")).json()["stages"][-1]["reason"] == "no meter counts it"
        await make(database_url, clip, {"id": "others", "event_type": "call", "aggregation": "count"})
        last = (await reader.get("/v1/events/test/c")).json()["stages"][-1]
        assert last["reason"] == "no meter counts it yet; clips will (back-fill)"
        await fill(database_url, reader.count.database)
        last = (await reader.get("/v1/events/test/c")).json()["stages"][-1]
        assert (last["stage"], last["meters"][0]["meter"]) == ("counted", "clips")


async def test_groups_and_filters(database_url: str) -> None:
    async with reading(database_url) as reader:
        await planted(reader)
        start = "2026-10-01T00:00:00+05:30"
        assert await reader.usage("words", group_by="model") == [
            (start, (None,), 1, "7"),
            (start, ("large",), 1, "10"),
            (start, ("small",), 2, "7"),
        ]
        assert await reader.usage("words", group_by="subject,fast") == [
            (start, ("alice", False), 1, "3"),
            (start, ("alice", True), 2, "17"),
            (start, ("bob", False), 1, "4"),
        ]
        assert await reader.usage("words", **{"filter.model": "small"}) == [(start, (), 2, "7")]
        assert await reader.usage("words", subject="bob") == [(start, (), 1, "4")]
        many = await reader.client.get(
            "/v1/meters/words/usage?from=2026-10-01&to=2026-11-01&filter.model=small&filter.model=large",
            headers={"Authorization": f"Bearer {reader.keys['reader']}"},
        )
        assert many.json()["rows"][0]["quantity"] == "17"


async def test_a_level_is_carried_through_windows_without_events(database_url: str) -> None:
    async with reading(database_url) as reader:
        seats = [(-3, 0, 4), (2, 12, 2)]
        await reader.count.apply(
            *(
                stamped(
                    str(n), data={"change": change}, type="seat", time=OCTOBER + timedelta(days=day - 1, hours=hour)
                )
                for n, (day, hour, change) in enumerate(seats)
            )
        )
        rows = await reader.usage("seats", window="day", to="2026-10-04")
        assert [row[3] for row in rows] == ["4", "5", "6"]


async def test_test_keys_read_test_usage_and_keys_without_the_scope_nothing(database_url: str) -> None:
    async with reading(database_url) as reader:
        await planted(reader)
        answer = await reader.get("/v1/meters/words/usage", "trial", **PERIOD)
        assert (answer.json()["mode"], answer.json()["rows"][0]["quantity"]) == ("test", "100")
        assert (await reader.get("/v1/meters/words/usage", "writer")).json()["code"] == "forbidden"
        nobody = await reader.client.get("/v1/meters/words/usage")
        assert (nobody.status_code, nobody.headers["www-authenticate"]) == (401, "Bearer")


async def test_csv_is_the_same_and_no_formula(database_url: str) -> None:
    async with reading(database_url) as reader:
        await reader.count.apply(call("1", 1, 0, 3, "=1+1", "a"), call("2", 1, 0, 4, "b,c", "a"))
        answer = await reader.get(
            "/v1/meters/words/usage",
            **{"from": "2026-10-01", "to": "2026-10-02", "group_by": "model", "format": "csv"},
        )
        assert answer.headers["content-type"].startswith("text/csv")
        rows = list(csv.reader(io.StringIO(answer.text)))
        assert rows[0] == ["start", "end", "meter_version", "model", "events", "quantity"]
        assert [row[3:] for row in rows[1:]] == [["'=1+1", "1", "3"], ["b,c", "1", "4"]]


@pytest.mark.parametrize(
    ("parameters", "status", "code"),
    [
        ({"time_zone": "UTC"}, 422, "zone_does_not_fit"),
        ({"time_zone": "Mars"}, 422, "unknown_time_zone"),
        ({"window": "week"}, 400, "invalid_parameter"),
        ({"from": "2026-10-01T00:00:00"}, 400, "invalid_parameter"),
        ({"from": "2026-10-01T00:10:00+05:30"}, 422, "invalid_period"),
        ({"from": "2026-12-01"}, 422, "invalid_period"),
        ({"window": "hour", "to": "2028-10-01"}, 422, "invalid_period"),
        ({"group_by": "colour"}, 422, "unknown_dimension"),
        ({"filter.colour": "red"}, 422, "unknown_dimension"),
        ({"form": "csv"}, 400, "invalid_parameter"),
        ({"format": "xml"}, 400, "invalid_parameter"),
        ({"from": "0001-01-01T00:00:00+05:30"}, 400, "invalid_parameter"),
        ({"to": "9999-12-31", "window": "month"}, 400, "invalid_parameter"),
        ({"subject": "a\0b"}, 400, "invalid_parameter"),
    ],
)
async def test_what_cannot_be_answered_says_why(
    database_url: str, parameters: dict[str, str], status: int, code: str
) -> None:
    async with reading(database_url) as reader:
        answer = await reader.get("/v1/meters/words/usage", **({"from": "2026-10-01", "to": "2026-11-01"} | parameters))
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert (
            await reader.get("/v1/meters/nothing/usage", **{"from": "2026-10-01", "to": "2026-11-01"})
        ).status_code == 404


async def test_windows_of_another_zone_whose_days_begin_with_our_hours(database_url: str) -> None:
    async with reading(database_url) as reader:
        await planted(reader)
        rows = await reader.usage("calls", time_zone="Asia/Colombo", window="day")  # +05:30 as well
        assert [row[2] for row in rows] == [2, 2]


async def test_the_story_of_one_event(database_url: str) -> None:
    async with reading(database_url) as reader:
        await reader.count.apply(call("1", 1, 0, 3, "small", "a"), call("1", 1, 0, 9, "small", "a"))
        await seal_month(database_url, Month(2026, 10), "acme")
        await reader.count.apply(call("2", 1, 0, 5, "small", "a"))
        story = (await reader.get("/v1/events/test/1")).json()
        assert [stage["stage"] for stage in story["stages"]] == ["accepted", "logged", "applied", "counted", "sealed"]
        assert story["stages"][2]["disposition"] == "counted"
        values = {meter["meter"]: meter["value"] for meter in story["stages"][3]["meters"]}
        assert values == {"calls": "1", "words": "3", "users": "1"}
        assert [conflict["offset"] for conflict in story["conflicts"]] == [1]
        late = (await reader.get("/v1/events", source="test", id="2")).json()
        assert [stage["stage"] for stage in late["stages"]][-2:] == ["counted", "late"]
        unknown = await reader.get("/v1/events/test/3")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "not_seen")
        assert (await reader.get("/v1/events/test/1", "trial")).status_code == 404  # another identity
