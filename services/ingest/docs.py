"""`/openapi.json` and `/docs`: the contract for programs and for people. No script, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.ingest.openapi import document
from services.ingest.openapi_examples import EVENT

STYLE = (Path(__file__).parent / "docs.css").read_text()
CURL = f"""curl "$KHATA_INGEST_URL/v1/events" -H "Authorization: Bearer $KHATA_API_KEY" \\
  -H "Content-Type: application/cloudevents+json" \\
  -d '{json.dumps(EVENT)}'"""
_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "max-age=300"}


def routes() -> list[Route]:
    return [Route("/openapi.json", _openapi), Route("/docs", _docs)]


async def _openapi(_: Request) -> Response:
    return Response(_bytes(), media_type="application/json", headers=_HEADERS)


async def _docs(_: Request) -> Response:
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'; base-uri 'none'"
    return Response(page(), media_type="text/html", headers=_HEADERS | {"content-security-policy": policy})


@cache
def _bytes() -> bytes:
    return orjson.dumps(document())


@cache
def page() -> str:
    """The document as HTML."""
    whole = document()
    post = whole["paths"]["/v1/events"]["post"]
    parts = [
        f"<header><h1>{escape(whole['info']['title'])}</h1><p>version {escape(whole['info']['version'])} · "
        '<a href="/openapi.json">OpenAPI 3.1</a></p></header>',
        f"<section>{_prose(whole['info']['description'])}</section>",
        '<section id="send"><h2><b class="verb">POST</b> <code>/v1/events</code></h2>',
        f"<p>{_inline(post['description'])}</p>",
        f"<p>{_inline(whole['components']['securitySchemes']['key']['description'])}</p>",
        _parameters(post["parameters"]),
        "<h3>Try it</h3>",
        _block(CURL),
        "<h3>An event</h3>",
        _properties(whole["components"]["schemas"]["Event"]),
        "<h3>Requests</h3>",
        *(_request(media_type, content) for media_type, content in post["requestBody"]["content"].items()),
        "</section><section id=answers><h2>Answers</h2>",
        f"<p>{_inline(whole['components']['headers']['X-Request-Id']['description'])} "
        "Every answer carries it as <code>X-Request-Id</code>.</p>",
        *(_answer(status, response) for status, response in post["responses"].items()),
        "</section>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Khata ingest: HTTP</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<style>{STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>"
    )


def _inline(text: str) -> str:
    """`code` and **strong**; everything else is escaped."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)


def _prose(text: str) -> str:
    """A paragraph, then points that begin with a dash."""
    first, *points = re.split(r"\n+- ", text.strip())
    items = "".join(f"<li>{_inline(point.replace(chr(10), ' '))}</li>" for point in points)
    return f"<p>{_inline(first.replace(chr(10), ' '))}</p><ul>{items}</ul>"


def _parameters(parameters: list[dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(one['name'])}</code></td><td>{' or '.join(one['schema']['enum'])}</td>"
        f"<td>{_inline(one['description'])}</td></tr>"
        for one in parameters
    )
    return (
        f"<table><thead><tr><th>parameter</th><th>value</th><th>meaning</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _properties(schema: dict[str, Any]) -> str:
    rows = []
    for name, one in schema["properties"].items():
        kind = one.get("const") or one.get("type", "any JSON")
        text = ", ".join(part for part in kind if part != "null") if isinstance(kind, list) else str(kind)
        if "maxLength" in one:
            text += f", at most {one['maxLength']}"
        needed = "required" if name in schema["required"] else ""
        rows.append(
            f"<tr><td><code>{escape(name)}</code></td><td>{escape(text)}</td><td>{needed}</td>"
            f"<td>{_inline(one.get('description', ''))}</td></tr>"
        )
    head = "<thead><tr><th>attribute</th><th>type</th><th></th><th>meaning</th></tr></thead>"
    return f"<table>{head}<tbody>{''.join(rows)}</tbody></table>"


def _request(media_type: str, content: dict[str, Any]) -> str:
    blocks = "".join(
        f"<h4>{escape(example.get('summary', name))}</h4>"
        + (f"<p>{_inline(example['description'])}</p>" if "description" in example else "")
        + _code(example["value"])
        for name, example in content["examples"].items()
    )
    return f"<details><summary><code>{escape(media_type)}</code></summary>{blocks}</details>"


def _answer(status: str, response: dict[str, Any]) -> str:
    [(media_type, content)] = response["content"].items()
    examples = "".join(
        f"<h4>{escape(name.replace('_', ' '))}</h4>{_code(example['value'])}"
        for name, example in content["examples"].items()
    )
    headers = "".join(f"<code>{escape(name)}</code> " for name in response["headers"] if name != "X-Request-Id")
    return (
        f'<details id="s{status}"><summary><b class="status s{status[0]}">{status}</b> '
        f"{_inline(response['description'])}</summary>"
        f"<p><code>{escape(media_type)}</code> {headers}</p>{examples}</details>"
    )


def _code(value: Any) -> str:
    return _block(json.dumps(value, indent=2, ensure_ascii=False))


def _block(text: str) -> str:
    return f"<pre><code>{escape(text, quote=False)}</code></pre>"
