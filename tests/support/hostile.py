"""Hostile calls as data: what is sent, and the answer that the contract documents for it."""

from __future__ import annotations

import codecs
import gzip
import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import cramjam

ONE, MANY, PLAIN = "application/cloudevents+json", "application/cloudevents-batch+json", "application/json"

Headers = list[tuple[str, bytes]]


@dataclass(frozen=True)
class Hostile:
    """`code` None: it is accepted, however odd it looks."""

    name: str
    body: bytes
    status: int
    code: str | None
    media_type: str = ONE
    headers: Headers = field(default_factory=list)


def whole(**more: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": "1", "source": "s", "type": "api.request", "subject": "a"} | more


def with_data(data: bytes) -> bytes:
    """An event whose data is these bytes."""
    return json.dumps(whole()).encode()[:-1] + b', "data": ' + data + b"}"


def with_attribute(name: str, value: bytes) -> bytes:
    """An event where one attribute has this JSON as its value."""
    others = {key: one for key, one in whole(data={"tokens": 1}).items() if key != name}
    return json.dumps(others).encode()[:-1] + b", " + json.dumps(name).encode() + b": " + value + b"}"


GOOD = with_data(b'{"tokens": 1}')


def corpus() -> list[Hostile]:
    return [
        *_not_json(),
        *_depth_and_size(),
        *_numbers(),
        *_texts(),
        *_attributes(),
        *_times(),
        *_encodings(),
        *_bombs(),
        *_content_types(),
        *_headers(),
        *_binary(),
    ]


def _not_json() -> Iterator[Hostile]:
    bodies = {
        "nothing": b"",
        "spaces": b" \t\r\n",
        "one brace": b"{",
        "one bracket": b"[",
        "null": b"null",
        "true": b"true",
        "a number": b"5",
        "a text": b'"text"',
        "comment": GOOD + b"// comment",
        "trailing comma": b'{"id": "1",}',
        "single quotes": b"{'id': '1'}",
        "unquoted name": b"{id: 1}",
        "two objects": GOOD + GOOD,
        "object and NUL": GOOD + b"\x00",
        "NUL in front": b"\x00" + GOOD,
        "form": b"id=1&source=s",
        "xml": b"<event/>",
        "yaml": b"id: 1\n",
        "html": b"<!doctype html>",
        "path traversal": b"../../etc/passwd",
        "unclosed text": b'{"id": "1',
        "wrong escape": b'{"id": "\\x41"}',
        "half an escape": b'{"id": "\\u12"}',
        "raw newline in a text": b'{"id": "a\nb"}',
        "raw NUL in a text": b'{"id": "a\x00b"}',
        "only commas": b"," * 1000,
        "only quotes": b'"' * 1001,
        "only backslashes": b"\\" * 1000,
        "noise": random.Random(1).randbytes(4096),
        "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtin\x94.",
        "msgpack": b"\x85\xa2id\xa11",
    }
    # JSON, but no event; or so by their first character, which is all that is looked at then.
    shapes = {"null", "true", "a number", "a text", "one bracket", "only quotes"}
    for name, body in bodies.items():
        yield Hostile(f"one: {name}", body, *((422, "invalid_event") if name in shapes else (400, "malformed")))
        yield Hostile(f"batch: {name}", body, 400, "malformed", MANY)
    for name, body in {
        "empty batch": b"[]",
        "batch of nothing": b"[,]",
        "batch with a tail": b"[" + GOOD + b"]x",
    }.items():
        yield Hostile(name, body, 400, "malformed", MANY)
    yield Hostile("a batch as one event", b"[" + GOOD + b"]", 422, "invalid_event")
    yield Hostile("one event as a batch", GOOD, 400, "malformed", MANY)
    yield Hostile("batch in a batch", b"[[" + GOOD + b"]]", 422, "invalid_event", MANY)
    yield Hostile("batch of nulls", b"[null, null]", 422, "all_rejected", MANY)


def _depth_and_size() -> Iterator[Hostile]:
    def nested(levels: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
        return opening * levels + b"1" + closing * levels

    wrapped = b'{"tokens": 1, "x": %s}'
    yield Hostile("63 levels in data", with_data(wrapped % nested(63)), 202, None)
    yield Hostile("64 levels in an object", with_data(wrapped % nested(64)), 400, "malformed")
    for levels in (65, 1_000, 50_000, 130_000):
        yield Hostile(
            f"{levels} arrays",
            with_data(wrapped % nested(levels, b"[", b"]")[: 2 * levels + 1]),
            *((413, "too_large") if 2 * levels > 262_144 - 200 else (400, "malformed")),
        )
        yield Hostile(f"{levels} unclosed", with_data(b"[" * levels), 400, "malformed")
    yield Hostile("objects 30,000 deep", with_data(wrapped % nested(30_000, b'{"a":', b"}")), 400, "malformed")
    yield Hostile("deep in an unknown attribute", with_attribute("x", nested(100_000)), 400, "malformed")
    yield Hostile("a body of brackets", b"[" * 5_000_000, 400, "malformed", MANY)
    yield Hostile("a million elements", b"[" + b"1," * 1_000_000 + b"1]", 413, "too_large", MANY)
    yield Hostile("1,001 events", b"[" + b",".join([GOOD] * 1001) + b"]", 413, "too_many_events", MANY)
    yield Hostile("1,001 numbers", b"[" + b"1," * 1000 + b"1]", 413, "too_many_events", MANY)
    yield Hostile("299,000 names in data", with_data(b'{"tokens":1' + b',"a":1' * 40_000 + b"}"), 202, None)
    yield Hostile("a text of 256 KiB", with_data(json.dumps("x" * 262_144).encode()), 413, "too_large")
    yield Hostile("a name of 200 KB", with_data(b'{"tokens": 1, "%s": 1}' % (b"n" * 200_000)), 202, None)
    yield Hostile("over the cap", b" " * (5 * 1024 * 1024 + 1), 413, "too_large")
    yield Hostile("spaces up to the cap", b"[" + b" " * (5 * 1024 * 1024 - 2) + b"]", 400, "malformed", MANY)
    yield Hostile("one event of 5 MB", with_data(b'"' + b"x" * 5_000_000 + b'"'), 413, "too_large")


def _numbers() -> Iterator[Hostile]:
    table: dict[bytes, tuple[int, str | None]] = {
        b"NaN": (400, "malformed"),
        b"Infinity": (400, "malformed"),
        b"-Infinity": (400, "malformed"),
        b"nan": (400, "malformed"),
        b"inf": (400, "malformed"),
        b"+1": (400, "malformed"),
        b"01": (400, "malformed"),
        b".5": (400, "malformed"),
        b"5.": (400, "malformed"),
        b"0x10": (400, "malformed"),
        b"1_000": (400, "malformed"),
        b"1e": (400, "malformed"),
        b"1e400": (422, "bad_value"),
        b"-1e400": (422, "bad_value"),
        b"1e-400": (422, "bad_value"),
        b"1e99999": (422, "bad_value"),
        b"1e-99999": (422, "bad_value"),
        b"1e99999999999999999999": (400, "malformed"),
        b"0e99999999": (202, None),
        b"-0": (202, None),
        b"-0.0e-0": (202, None),
        b"9" * 20: (202, None),
        b"9" * 21: (422, "bad_value"),
        b"9" * 100: (422, "bad_value"),
        b"9" * 5_000: (400, "malformed"),
        b"9" * 200_000: (400, "malformed"),
        b"0." + b"1" * 18: (202, None),
        b"0." + b"1" * 19: (422, "bad_value"),
        b"0." + b"0" * 200_000: (400, "malformed"),
        b"1e" + b"0" * 200_000: (400, "malformed"),
        b"18446744073709551616": (202, None),
        b"-9223372036854775809": (202, None),
        b"1.7976931348623157e308": (422, "bad_value"),
        b"5e-324": (422, "bad_value"),
        b"true": (422, "bad_value"),
        b"null": (422, "bad_value"),
        b'"NaN"': (422, "bad_value"),
        b'"Infinity"': (422, "bad_value"),
        b'"1_000"': (422, "bad_value"),
        b'"0x10"': (422, "bad_value"),
        b'" 1"': (422, "bad_value"),
        b'"1 "': (422, "bad_value"),
        b'"1e5"': (202, None),
        b'"1.5"': (202, None),
        b'""': (422, "bad_value"),
        '"١٢٣"'.encode(): (422, "bad_value"),  # digits that Decimal would take
        '"１"'.encode(): (422, "bad_value"),
        b'"1e99999"': (422, "bad_value"),
        b'"' + b"9" * 200_000 + b'"': (422, "bad_value"),
        b"[1]": (422, "bad_value"),
        b'{"tokens": 1}': (422, "bad_value"),
    }
    for value, (status, code) in table.items():
        yield Hostile(
            f"number {value[:24].decode()} ({len(value)})", with_data(b'{"tokens": %s}' % value), status, code
        )
    yield Hostile("the same name twice", with_data(b'{"tokens": "x", "tokens": 2}'), 202, None)  # the last one counts
    yield Hostile("the same name twice, wrong last", with_data(b'{"tokens": 2, "tokens": "x"}'), 422, "bad_value")
    yield Hostile("name in escapes", with_data(b'{"\\u0074okens": 2}'), 202, None)
    yield Hostile("dotted name", with_data(b'{"to.kens": 2}'), 422, "bad_value")
    yield Hostile("prototype", with_data(b'{"__proto__": {"tokens": 1}}'), 422, "bad_value")


def _texts() -> Iterator[Hostile]:
    table: dict[str, tuple[bytes, int, str | None]] = {
        "NUL in escapes": (b'"a\\u0000b"', 422, "invalid_event"),
        "newline in escapes": (b'"a\\nb"', 422, "invalid_event"),
        "escape character": (b'"\\u001b[31m"', 422, "invalid_event"),
        "DEL": (b'"\\u007f"', 422, "invalid_event"),
        "C1 control": (b'"\\u0085"', 422, "invalid_event"),
        "noncharacter FFFE": (b'"\\ufffe"', 422, "invalid_event"),
        "noncharacter FDD0": (b'"\\ufdd0"', 422, "invalid_event"),
        "noncharacter of the last plane": (b'"\\udbff\\udfff"', 422, "invalid_event"),
        "high surrogate alone": (b'"\\ud800"', 400, "malformed"),
        "low surrogate alone": (b'"\\udc00"', 400, "malformed"),
        "surrogates the wrong way round": (b'"\\udc00\\ud800"', 400, "malformed"),
        "two high surrogates": (b'"\\ud800\\ud800"', 400, "malformed"),
        "surrogate in UTF-8": (b'"\xed\xa0\x80"', 400, "malformed"),
        "overlong slash": (b'"\xc0\xaf"', 400, "malformed"),
        "overlong NUL": (b'"\xc0\x80"', 400, "malformed"),
        "beyond Unicode": (b'"\xf4\x90\x80\x80"', 400, "malformed"),
        "cut UTF-8": (b'"\xe2\x82"', 400, "malformed"),
        "Latin-1": (b'"Zo\xeb"', 400, "malformed"),
        "emoji": ('"😀"'.encode(), 202, None),
        "emoji in escapes": (b'"\\ud83d\\ude00"', 202, None),
        "right to left override": ('"a\u202eb"'.encode(), 202, None),
        "zero width": ('"a\u200bb"'.encode(), 202, None),
        "byte order mark inside": ('"\ufeffa"'.encode(), 202, None),
        "composed and not": ('"e\u0301"'.encode(), 202, None),
        "a thousand accents": (json.dumps("e" + "\u0301" * 255).encode(), 202, None),
        "line separator": ('"a\u2028b"'.encode(), 202, None),
        "256 characters": (json.dumps("😀" * 256).encode(), 202, None),
        "257 characters": (json.dumps("😀" * 257).encode(), 422, "invalid_event"),
        "200,000 characters": (json.dumps("x" * 200_000).encode(), 422, "invalid_event"),
        "sql": (b'"\'; DROP TABLE usage.window; --"', 202, None),
        "template": (b'"${jndi:ldap://x}"', 202, None),
        "slash": (b'"../../x"', 202, None),
    }
    for name, (value, status, code) in table.items():
        yield Hostile(f"subject: {name}", with_attribute("subject", value), status, code)
    for name in ("id", "source", "type"):
        yield Hostile(f"{name}: NUL", with_attribute(name, b'"a\\u0000"'), 422, "invalid_event")
        yield Hostile(f"{name}: surrogate", with_attribute(name, b'"\\ud800"'), 400, "malformed")
        yield Hostile(f"{name}: long", with_attribute(name, json.dumps("x" * 513).encode()), 422, "invalid_event")
    yield Hostile("data: NUL", with_data(b'{"tokens": 1, "x": "\\u0000"}'), 202, None)
    yield Hostile("data: surrogate", with_data(b'{"tokens": 1, "x": "\\ud800"}'), 400, "malformed")
    yield Hostile("data: surrogate as a name", with_data(b'{"tokens": 1, "\\udfff": 1}'), 400, "malformed")
    yield Hostile("data: Latin-1", with_data(b'{"tokens": 1, "x": "\xeb"}'), 400, "malformed")


def _attributes() -> Iterator[Hostile]:
    for name in ("specversion", "id", "source", "type", "subject"):
        for what, value in {
            "null": b"null",
            "number": b"1",
            "list": b'["a"]',
            "object": b"{}",
            "true": b"true",
        }.items():
            yield Hostile(f"{name}: {what}", with_attribute(name, value), 422, "invalid_event")
        yield Hostile(f"{name}: empty", with_attribute(name, b'""'), 422, "invalid_event")
    for version in (b'"0.3"', b'"1"', b'"1.0 "', b'"2.0"', b'"1.00"'):
        yield Hostile(f"specversion {version.decode()}", with_attribute("specversion", version), 422, "invalid_event")
    yield Hostile("an attribute twice", GOOD[:-1] + b', "subject": ""}', 422, "invalid_event")  # the last one counts
    yield Hostile("unknown attributes", with_attribute("comexample", b'{"a": [1]}'), 202, None)
    yield Hostile("another project", with_attribute("project", b'"zenith-app"'), 403, "wrong_project")
    yield Hostile("a project that is none", with_attribute("project", b"5"), 422, "invalid_event")
    yield Hostile("the mode of another key", with_attribute("mode", b'"test"'), 422, "wrong_mode")
    yield Hostile("a mode that is none", with_attribute("mode", b'"dry"'), 422, "wrong_mode")
    yield Hostile("stamps of ours", with_attribute("unmetered", b"true"), 202, None)
    yield Hostile("base64", json.dumps(whole(data_base64="eyJ0b2tlbnMiOjF9")).encode(), 422, "unsupported_data")
    yield Hostile("data content type", with_attribute("datacontenttype", b'"text/plain"'), 422, "unsupported_data")
    yield Hostile(
        "content type json-ish", with_attribute("datacontenttype", b'"text/notjson"'), 422, "unsupported_data"
    )


def _times() -> Iterator[Hostile]:
    table = {
        "yesterday": "invalid_time",
        "": "invalid_time",
        "2026-10-01": "invalid_time",
        "2026-10-01T12:00:00": "invalid_time",
        "2026-10-01 12:00:00": "invalid_time",
        "12:00:00Z": "invalid_time",
        "2026-13-01T00:00:00Z": "invalid_time",
        "2026-02-30T00:00:00Z": "invalid_time",
        "2026-10-01T25:00:00Z": "invalid_time",
        "2026-10-01T12:00:61Z": "invalid_time",
        "2026-10-01T12:00:00+25:00": "invalid_time",
        "2026-10-01T12:00:00 Asia/Kolkata": "invalid_time",
        "0000-01-01T00:00:00Z": "invalid_time",
        "0001-01-01T00:00:00+14:00": "invalid_time",
        "9999-12-31T23:59:59-14:00": "invalid_time",
        "10000-01-01T00:00:00Z": "invalid_time",
        "-2026-10-01T00:00:00Z": "invalid_time",
        "２０２６-10-01T12:00:00Z": "invalid_time",
        "2026-10-01T12:00:00Z\n": "invalid_time",
        "0001-01-01T00:00:00Z": "too_late",
        "1970-01-01T00:00:00Z": "too_late",
        "2000-02-29T00:00:00Z": "too_late",
        "9999-12-31T23:59:59Z": "in_the_future",
        "9999-12-31T23:59:59.999999999Z": "invalid_time",  # rounded to microseconds it is outside the calendar
        "2100-01-01T00:00:00Z": "in_the_future",
        "x" * 100_000: "invalid_time",
    }
    for time, code in table.items():
        yield Hostile(f"time {time[:32]!r}", with_attribute("time", json.dumps(time).encode()), 422, code)
    for value in (b"0", b"1e10", b"true", b"[]", b"{}"):
        yield Hostile(f"time {value.decode()}", with_attribute("time", value), 422, "invalid_event")
    yield Hostile("time null is stamped", with_attribute("time", b"null"), 202, None)


def _encodings() -> Iterator[Hostile]:
    text = GOOD.decode()
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp037"):
        body = text.encode(encoding)
        yield Hostile(f"in {encoding}", body, 400, "malformed")
    yield Hostile("byte order mark", codecs.BOM_UTF8 + GOOD, 400, "malformed")
    yield Hostile("charset that is not so", GOOD, 202, None, f"{ONE}; charset=utf-16")


def _packed(name: str, body: bytes, status: int, code: str | None, coding: bytes = b"gzip") -> Hostile:
    return Hostile(name, body, status, code, headers=[("Content-Encoding", coding)])


ZEROS, PIECES = bytes(1_000_000), 200


def _gzip_bomb() -> bytes:
    """200 MB of zeros; made piece by piece, so that building it takes no memory that a test measures."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(ZEROS) for _ in range(PIECES)), packer.flush()])


def _zstd_bomb() -> bytes:
    packer = cramjam.zstd.Compressor()
    for _ in range(PIECES):
        packer.compress(ZEROS)
    return bytes(packer.finish())


def _bombs() -> Iterator[Hostile]:
    gz, zst = _gzip_bomb(), _zstd_bomb()
    yield _packed("gzip bomb", gz, 413, "too_large")
    yield _packed("zstd bomb", zst, 413, "too_large", b"zstd")
    yield _packed("gzip bomb in a gzip", gzip.compress(gz), 400, "malformed")
    yield _packed("zstd bomb in a zstd", bytes(cramjam.zstd.compress(zst)), 400, "malformed", b"zstd")
    yield _packed("five zstd bombs", zst * 5, 413, "too_large", b"zstd")
    yield _packed("five gzip bombs", gz * 5, 413, "too_large")
    rle = b"".join(b"\x02\x00\x10\xff" for _ in range(9_999))  # each block repeats a byte 128 Ki times
    yield _packed("zstd of repeats", b"\x28\xb5\x2f\xfd\x00\x58" + rle + b"\x03\x00\x10\xff", 413, "too_large", b"zstd")
    yield _packed("window of a terabyte", b"\x28\xb5\x2f\xfd\x00\xf8\x01\x00\x00", 400, "malformed", b"zstd")
    yield _packed(
        "a frame that says it is large",
        b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8 + b"\x01\x00\x00",
        413,
        "too_large",
        b"zstd",
    )
    yield _packed("gzip without an end", gz[:50_000], 413, "too_large")
    yield _packed("gzip cut early", gzip.compress(GOOD)[:20], 400, "malformed")
    yield _packed("many empty members", gzip.compress(b"") * 10_000, 400, "malformed")
    yield _packed("many skippable frames", b"\x50\x2a\x4d\x18\x00\x00\x00\x00" * 600_000, 400, "malformed", b"zstd")
    yield _packed("a frame that skips 4 GB", b"\x50\x2a\x4d\x18\xff\xff\xff\xff", 400, "malformed", b"zstd")
    yield _packed("zlib as gzip", zlib.compress(GOOD), 400, "malformed")
    yield _packed("plain as gzip", GOOD, 400, "malformed")
    yield _packed("plain as zstd", GOOD, 400, "malformed", b"zstd")
    yield _packed("noise as zstd", b"\x28\xb5\x2f\xfd" + random.Random(2).randbytes(5000), 400, "malformed", b"zstd")
    yield _packed("gzip twice", gzip.compress(gzip.compress(GOOD)), 415, "unsupported_content_encoding", b"gzip, gzip")
    yield _packed("encoding br", GOOD, 415, "unsupported_content_encoding", b"br")
    yield _packed("encoding of 60 KB", GOOD, 415, "unsupported_content_encoding", b"x" * 60_000)
    yield _packed("good gzip", gzip.compress(GOOD), 202, None)


def _content_types() -> Iterator[Hostile]:
    for media_type in (
        "text/plain",
        "text/json",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/cloudevents",
        "application/cloudevents+xml",
        "application/cloudevents+avro",
        "application/cloudevents-batch",
        "application/cloudevents+json-seq",
        "application/problem+json",
        "*/*",
        "json",
        "/",
        ";",
        "",
        "application /json",
        "x" * 60_000,
        "application/json\x0b",
        "é",
    ):
        yield Hostile(f"content type {media_type[:40]!r}", GOOD, 415, "unsupported_media_type", media_type)
    for media_type in ("APPLICATION/JSON", " application/json ", "application/json;;;", 'application/json; a="b;c"'):
        yield Hostile(f"content type {media_type!r}", GOOD, 202, None, media_type)


def _headers() -> Iterator[Hostile]:
    for name, value in {
        "X-Request-Id": b"x" * 60_000,
        "X-Forwarded-For": b"1.1.1.1, " * 5_000,
        "Cookie": b"a=b; " * 10_000,
        "Accept": b"\xff\xfe",
        "Accept-Encoding": b"gzip;q=1e999",
        "Range": b"bytes=0-",
        "Expect": b"200-ok",
        "If-Match": b'"x"',
        "Traceparent": b"00-" + b"0" * 60_000,
        "X-Http-Method-Override": b"DELETE",
    }.items():
        yield Hostile(f"header {name}", GOOD, 202, None, headers=[(name, value)])
    yield Hostile("four thousand headers", GOOD, 202, None, headers=[(f"x-{n}", b"1") for n in range(4_000)])
    yield Hostile("a length that is none", GOOD, 202, None, headers=[("Content-Length", "²".encode("latin-1"))])
    yield Hostile("a length beyond", GOOD, 413, "too_large", headers=[("Content-Length", b"9" * 5_000)])
    yield Hostile("a length below zero", GOOD, 202, None, headers=[("Content-Length", b"-1")])


def _binary() -> Iterator[Hostile]:
    good: dict[str, bytes] = {
        "specversion": b"1.0",
        "id": b"1",
        "source": b"s",
        "type": b"api.request",
        "subject": b"a",
    }

    def call(name: str, status: int, code: str | None, body: bytes = b'{"tokens": 1}', **more: bytes | None) -> Hostile:
        pairs = [(f"ce-{key}", value) for key, value in (good | more).items() if value is not None]
        return Hostile(f"binary: {name}", body, status, code, PLAIN, pairs)

    yield call("good", 202, None)
    yield call("no version", 422, "invalid_event", specversion=None)
    yield call("no id", 422, "invalid_event", id=None)
    yield call("raw UTF-8", 422, "invalid_event", subject="ë".encode())
    yield call("raw control", 422, "invalid_event", subject=b"\x01")
    yield call("NUL escaped", 422, "invalid_event", subject=b"%00")
    yield call("surrogate escaped", 422, "invalid_event", subject=b"%ED%A0%80")
    yield call("overlong escaped", 422, "invalid_event", subject=b"%C0%AF")
    yield call("escaped twice", 202, None, subject=b"%2500")
    yield call("half an escape", 202, None, subject=b"%4")
    yield call("escapes of 24 KB", 422, "invalid_event", subject=b"%41" * 8_000)
    yield call("a header of 60 KB", 422, "invalid_event", subject=b"x" * 60_000)
    yield call("quotes", 202, None, subject=b'"' + b'\\"' * 100 + b'"')
    yield call("unending quotes", 202, None, subject=b'"' + b"\\" * 201)
    yield call("time", 422, "invalid_time", time=b"now")
    yield call("data", 422, "bad_value", body=b"{}")
    yield call("data is no JSON", 400, "malformed", body=b"{")
    yield call("two values", 400, "malformed", body=b"{}{}")
    yield call("an injection into the record", 400, "malformed", body=b'{"tokens":1},"project":"zenith-app"')
    yield call("no data", 422, "bad_value", body=b"")
    yield call("another project", 403, "wrong_project", project=b"zenith-app")
    yield call("large", 413, "too_large", body=b'"' + b"x" * 300_000 + b'"')
    yield call("thousand attributes", 202, None, **{f"x{n}": b"1" for n in range(1_000)})
