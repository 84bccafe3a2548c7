"""Access logs: one line is one request, and reading a log twice makes the same events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.ingest.importing.access_log import AccessLog
from shared.domain.errors import Usage
from shared.domain.period import Month

SAMPLE = Path(__file__).parents[3] / "examples" / "access.log"
LINE = '192.0.2.1 - - [05/Oct/2026:09:00:00 +0530] "GET /a HTTP/1.1" 200 7'


def events(*lines: str, **more: Any) -> list[dict[str, Any]]:
    form = AccessLog(**({"source": "web-1", "subject": "web"} | more))
    return [json.loads(event) for _, event in form.events(f"{line}\n" for line in lines)]


def data(line: str) -> dict[str, Any]:
    [event] = events(line)
    found: dict[str, Any] = event["data"]
    return found


def test_the_sample_counts_as_it_does_by_hand() -> None:
    found = events(*SAMPLE.read_text().splitlines())
    # 2 x 5120 + 310 + 2048 + 0 + 0 + 100 + 0 + 226 + 0
    assert (len(found), sum(event["data"]["bytes"] for event in found)) == (10, 12_924)
    assert len({event["id"] for event in found}) == 10  # the first two lines are equal, and two requests
    assert [event["data"]["status"] for event in found] == [200, 200, 201, 200, 404, 408, 200, 304, 400, 204]
    assert [event["data"]["path"] for event in found] == [
        "/index.html",
        "/index.html",
        "/orders",
        "/search",
        "/missing",
        "-",
        "/say",
        "/index.html",
        "-",
        "/files/report.pdf",
    ]
    assert found[7]["time"] == "2026-10-05T03:30:07Z"
    assert found[0]["time"] == "2026-10-05T03:30:01Z"
    assert "card" not in json.dumps(found)


def test_a_request_becomes_an_event() -> None:
    [event] = events(LINE)
    assert event | {"id": ""} == {
        "specversion": "1.0",
        "id": "",
        "source": "web-1",
        "type": "http.request",
        "subject": "web",
        "time": "2026-10-05T03:30:00Z",
        "data": {"bytes": 7, "status": 200, "method": "GET", "path": "/a"},
    }


def test_reading_it_again_makes_the_same_ids_and_the_month_is_no_part_of_them() -> None:
    first = [event["id"] for event in events(LINE, LINE)]
    assert len(set(first)) == 2
    assert [event["id"] for event in events(LINE, "", LINE, into_month=Month.parse("2026-11"))] == first


def test_a_line_keeps_its_local_day_in_another_month() -> None:
    evening = LINE.replace("05/Oct/2026:09:00:00 +0530", "17/May/2015:20:00:00 +0000")
    [event] = events(evening, into_month=Month.parse("2026-10"))
    assert event["time"] == "2026-10-17T20:00:00Z"  # the 18th in India, as in May
    [event] = events(evening, into_month=Month.parse("2026-10"), zone="UTC")
    assert event["time"] == "2026-10-17T20:00:00Z"


def test_bytes_that_are_no_text_stay_apart_and_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(
        b"".join(LINE.replace("/a", "/%c").encode().replace(b"%c", byte) + b"\n" for byte in (b"\xff", b"\xfe"))
    )
    form = AccessLog("web-1", "web")
    with path.open(encoding="utf-8", errors=form.decoding_errors, newline=form.newline) as file:
        found = [json.loads(event) for _, event in form.events(file)]
    assert [event["data"]["path"] for event in found] == ["/\\xff", "/\\xfe"]
    assert found[0]["id"][:32] != found[1]["id"][:32]


@pytest.mark.parametrize(
    ("request_line", "method", "path"),
    [
        ("GET /a?x=1 HTTP/1.1", "GET", "/a"),
        ("GET /a", "GET", "/a"),
        ("-", "-", "-"),
        ("", "-", "-"),
        ("GET /a b HTTP/1.1", "-", "-"),
        ('GET /"quoted" HTTP/1.1', "GET", '/"quoted"'),
        ("OPTIONS * HTTP/1.1", "OPTIONS", "*"),
        ("GET http://example.org/x?y HTTP/1.1", "GET", "http://example.org/x"),
        ("GET ? HTTP/1.1", "GET", ""),
    ],
)
def test_whatever_a_client_sent_as_its_request_is_counted(request_line: str, method: str, path: str) -> None:
    found = data(LINE.replace("GET /a HTTP/1.1", request_line))
    assert (found["method"], found["path"], found["bytes"]) == (method, path, 7)


@pytest.mark.parametrize(
    "line",
    [
        "not a log",
        LINE.replace("200 7", "200"),
        LINE.replace("200 7", "OK 7"),
        LINE.replace("200 7", "200 -7"),
        LINE.replace("200 7", "200 " + "9" * 19),
        LINE.replace("Oct", "Okt"),
        LINE.replace("05/Oct", "32/Oct"),
        LINE.replace("+0530", "+9930"),
        LINE.replace("05/Oct/2026:09", "01/Jan/0001:00"),
        LINE.replace("/a", "/" + "x" * 70_000),
        LINE[:40],
    ],
)
def test_a_line_that_is_none_stops_the_import_naming_it(line: str) -> None:
    with pytest.raises(Usage, match="^line 2: "):
        events(LINE, line)


def test_a_day_that_the_month_does_not_have_is_named() -> None:
    with pytest.raises(Usage, match="^line 1: 2026-02 has no day 31"):
        events(LINE.replace("05/Oct", "31/Oct"), into_month=Month.parse("2026-02"))
