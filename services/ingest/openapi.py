"""The contract of the HTTP door as an OpenAPI 3.1 document, written by hand.

A test sends the request behind every status and example and compares: what stands here is what is answered.
"""

from __future__ import annotations

from typing import Any

from services.ingest.http.body import BODY_DEADLINE_S, MAX_BODY_BYTES
from services.ingest.http.forms import EITHER, MANY, MAX_EVENTS, ONE
from services.ingest.openapi_examples import ANSWERS, BATCH, BINARY_DATA, BINARY_HEADERS, CORRECTION, EVENT
from services.ingest.validate import MAX_EVENT_BYTES
from shared.observability.logging import VERSION

JSON, PROBLEM = "application/json", "application/problem+json"
# What CloudEvents 1.0 forbids in a string: C0 and C1 controls, DEL, noncharacters of the first plane.
_TEXT = r"^[^\u0000-\u001f\u007f-\u009f\ufdd0-\ufdef\ufffe\uffff]+$"

DESCRIPTION = f"""Send usage events here. An answer of **202** means that every event it counts as accepted is
durable and will be counted once, whatever dies next.

- **Identity** is `source` + `id` (within the project, live and test apart). The same event sent again counts once;
  another content under the same identity is kept and shown as a conflict, the first one stands. Duplicates are not
  known at the door: they are among the accepted.
- **Retry** when there was no answer, or 429, 500 or 503 (after `Retry-After`): send the same events with the same ids.
- **Time** is part of the event, not of its identity. A missing `time` is stamped and returned in `times`.
- **Corrections** are events too, with the subject of the event that is wrong: `khata.usage.void` takes it back,
  `khata.usage.amend` gives it other data (example `correction`). They may come before it, and wait for it then.
  Other types that begin with `khata.` are refused.
- **Numbers** in `data` are exact decimals, never floats. A name that stands twice in an object: the last one counts.
- At most {MAX_EVENTS:,} events and {MAX_BODY_BYTES // 1024 // 1024} MB a call (inflated too), \
{MAX_EVENT_BYTES // 1024} KiB an event; `Content-Encoding` gzip or zstd.
- Chunked bodies are fine: `Content-Length` is never required (there is no 411).
"""


def document() -> dict[str, Any]:
    """The whole document; nothing in it depends on the installation."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Khata ingest", "version": VERSION, "description": DESCRIPTION},
        "paths": {"/v1/events": {"post": _post()}},
        "components": {
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, `kh_live_...` or `kh_test_...`, with the scope `events:write`. "
                    "Events of a test key are kept apart and never billed.",
                }
            },
            "schemas": _schemas(),
            "headers": {
                "X-Request-Id": {
                    "description": "The caller's own (1 to 128 visible ASCII characters), or a new one.",
                    "required": True,
                    "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
                },
                "Retry-After": {
                    "description": "Seconds to wait before the same events are sent again.",
                    "required": True,
                    "schema": {"type": "string", "pattern": "^[0-9]+$"},
                },
            },
        },
    }


def _post() -> dict[str, Any]:
    event, batch = {"$ref": "#/components/schemas/Event"}, {"$ref": "#/components/schemas/Batch"}
    return {
        "operationId": "sendEvents",
        "summary": "Send usage events",
        "description": "One event or a batch. In binary mode the attributes are `ce-` headers, percent-encoded, and "
        "the body is `data`: CloudEvents HTTP protocol binding 1.0.",
        "security": [{"key": []}],
        "parameters": [
            {
                "name": "validate_only",
                "in": "query",
                "description": "true: say what would become of the events and send nothing. No other parameter is "
                "taken, so that a misspelt one never sends.",
                "schema": {"type": "string", "enum": ["true", "false"]},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                ONE: {"schema": event, "examples": {"one": {"value": EVENT}, "correction": {"value": CORRECTION}}},
                MANY: {"schema": batch, "examples": {"batch": {"value": BATCH}}},
                EITHER: {
                    "schema": {"oneOf": [event, batch]},
                    "examples": {
                        "one": {"value": EVENT},
                        "batch": {"value": BATCH},
                        "binary": {
                            "summary": "binary mode",
                            "description": "With the headers "
                            + ", ".join(f"`{name}: {value}`" for name, value in BINARY_HEADERS.items()),
                            "value": BINARY_DATA,
                        },
                    },
                },
            },
        },
        "responses": {str(status): _response(status) for status in sorted(ANSWERS)},
    }


_MEANINGS = {
    200: "Only asked (`validate_only=true`): what would become of the events. Nothing was sent.",
    202: "Every event counted as accepted is durable. `errors` lists those refused by their index in the call.",
    400: "Not JSON, not the encoding it says, or a wrong parameter. Nothing was accepted.",
    401: "The key is missing, unknown, expired or revoked; which of these is not told.",
    403: "The key lacks the scope `events:write`, or the event names another project.",
    405: "Only POST.",
    408: f"The body did not come within {BODY_DEADLINE_S:g} s.",
    413: "The body, the inflated body, an event or the number of events is too large. Send several calls.",
    415: "A content type or content encoding that is not read here.",
    422: "JSON, but no event that can be counted: none of the call was accepted, `errors` says why.",
    429: "The key sends faster than its limit. Nothing of the call was accepted; a call passes whole or not at all.",
    500: "A fault of ours. Whether the events were accepted is unknown: send them again.",
    503: "Not acknowledged. Whether the events were accepted is unknown: send them again.",
}


def _response(status: int) -> dict[str, Any]:
    headers: dict[str, Any] = {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}}
    if status in (429, 503):
        headers["Retry-After"] = {"$ref": "#/components/headers/Retry-After"}
    good = status < 300
    schema = {200: "WouldBe", 202: "Accepted"}.get(status, "Problem")
    return {
        "description": _MEANINGS[status],
        "headers": headers,
        "content": {
            (JSON if good else PROBLEM): {
                "schema": {"$ref": f"#/components/schemas/{schema}"},
                "examples": {name: {"value": value} for name, value in ANSWERS[status].items()},
            }
        },
    }


def _text(description: str, longest: int) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": longest, "pattern": _TEXT, "description": description}


def _correction(description: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "description": f"{description} Its event needs the target's subject, project and mode to find it.",
        "required": ["target", *more],
        "properties": {
            "target": {
                "type": "object",
                "required": ["id"],
                "properties": {
                    "id": _text("of the event that is wrong", 256),
                    "source": _text("of that event; the correction's own where it is left out", 512),
                },
                "additionalProperties": False,
            },
            "reason": _text("for people", 500) | {"type": ["string", "null"]},
            **more,
        },
        "additionalProperties": False,
    }


def _schemas() -> dict[str, Any]:
    error = {"$ref": "#/components/schemas/EventError"}
    counts = {
        "accepted": {"type": "integer", "minimum": 0, "description": "events; duplicates are among them"},
        "rejected": {"type": "integer", "minimum": 0, "description": "events; each stands in `errors`"},
        "errors": {"type": "array", "items": error},
        "times": {
            "type": "object",
            "additionalProperties": {"type": "string", "format": "date-time"},
            "description": "the time stamped on each event that had none, by its index in the call",
        },
    }
    return {
        "Event": {
            "type": "object",
            "description": "A CloudEvent 1.0. Extension attributes are allowed and not used, but for those named here.",
            "required": ["specversion", "id", "source", "type", "subject"],
            "properties": {
                "specversion": {"const": "1.0", "type": "string", "description": "of CloudEvents; always this"},
                "id": _text("unique within `source`: with it, what makes the event itself", 256),
                "source": _text("what sent it; choose it once and keep it", 512),
                "type": _text(
                    "what is counted: the event type of a meter; or khata.usage.void, khata.usage.amend", 256
                ),
                "subject": _text("whose usage it is, inside the project", 256),
                "time": {
                    "type": ["string", "null"],
                    "format": "date-time",
                    "description": "RFC 3339 with its zone; stamped when missing. At most 5 minutes ahead, and not "
                    "older than the horizon (400 days unless configured).",
                },
                "datacontenttype": {
                    "type": ["string", "null"],
                    "pattern": "^[A-Za-z0-9]+/([A-Za-z0-9.]+[+])?json$",
                    "description": "JSON only",
                },
                "data": {"description": "any JSON; a meter finds its value in it. Of a correction: `Void` or `Amend`"},
                "project": {
                    "type": ["string", "null"],
                    "description": "extension; may be left out, else the key's own project",
                },
                "mode": {
                    "type": ["string", "null"],
                    "enum": ["live", "test", None],
                    "description": "extension; may be left out, else what the key is",
                },
            },
        },
        "Void": _correction("`data` of khata.usage.void: takes the target back, for good."),
        "Amend": _correction(
            "`data` of khata.usage.amend: the target keeps its identity, type and time. The last amend stands.",
            data={"description": "the whole new data of the target; checked where that is counted"},
        ),
        "Batch": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_EVENTS,
            "items": {"$ref": "#/components/schemas/Event"},
        },
        "Accepted": {
            "type": "object",
            "required": list(counts),
            "properties": counts,
            "additionalProperties": False,
        },
        "WouldBe": {
            "type": "object",
            "required": ["validate_only", *counts],
            "properties": {"validate_only": {"const": True}} | counts,
            "additionalProperties": False,
        },
        "EventError": {
            "type": "object",
            "required": ["index", "code", "message"],
            "properties": {
                "index": {"type": "integer", "minimum": 0},
                "code": {"type": "string", "pattern": "^[a-z_]+$", "description": "stable; programs switch on it"},
                "message": {"type": "string", "description": "for people; may change"},
            },
            "additionalProperties": False,
        },
        "Problem": {
            "type": "object",
            "description": "RFC 9457",
            "required": ["type", "title", "status", "detail", "code"],
            "properties": {
                "type": {"type": "string", "pattern": "^urn:khata:problem:[a-z_]+$", "description": "stable"},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string", "description": "for people; may change"},
                "code": {"type": "string", "description": "the last part of `type`"},
                "errors": {"type": "array", "items": error, "description": "on 4xx for events, by index"},
            },
            "additionalProperties": False,
        },
    }
