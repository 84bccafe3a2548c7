"""CloudEvents in binary mode: the attributes are headers, the body is the data. Pure, for both doors.

HTTP:  `ce-id: 1`, values percent-encoded (CloudEvents HTTP protocol binding 1.0, section 3.1.3)
Kafka: `ce_id`, values in UTF-8 (CloudEvents Kafka protocol binding 1.0, section 3.2.3)
In both `content-type` is the attribute `datacontenttype`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

import msgspec

from services.ingest.validate import MAX_EVENT_BYTES, Envelope
from shared.domain.errors import Rejected

HTTP_PREFIX, KAFKA_PREFIX = b"ce-", "ce_"
MAX_ATTRIBUTE_BYTES = 8 * 1024

_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)

Attributes = dict[str, str]


def http_attributes(headers: Iterable[tuple[bytes, bytes]]) -> Attributes:
    """Attributes of an HTTP call by name; empty without any `ce-` header. Raises Rejected (`invalid_event`)."""
    pairs = ((n[3:].decode("latin-1"), v) for n, v in headers if n[:3].lower() == HTTP_PREFIX)
    return _attributes((name.lower(), _percent_decoded(name, value)) for name, value in pairs)


def kafka_attributes(headers: Iterable[tuple[str, bytes]]) -> Attributes:
    """Attributes of a record by name; empty without any `ce_` header. Raises Rejected (`invalid_event`)."""
    return _attributes((name[3:], value) for name, value in headers if name.startswith(KAFKA_PREFIX))


def envelope_of(attributes: Attributes, content_type: str | None, data: bytes) -> Envelope:
    """The event; without a body it has no data (null). Raises Rejected (`too_large`)."""
    if len(data) > MAX_EVENT_BYTES:
        raise Rejected("too_large", f"an event may have at most {MAX_EVENT_BYTES} bytes")
    return Envelope(
        specversion=attributes.get("specversion", ""),
        id=attributes.get("id", ""),
        source=attributes.get("source", ""),
        type=attributes.get("type", ""),
        subject=attributes.get("subject", ""),
        time=attributes.get("time"),
        datacontenttype=content_type if data else None,
        data=msgspec.Raw(data or b"null"),
        project=attributes.get("project"),
        mode=attributes.get("mode"),
    )


def _attributes(pairs: Iterable[tuple[str, bytes]]) -> Attributes:
    found: Attributes = {}
    for name, value in pairs:
        if name in found:
            raise Rejected("invalid_event", f"the attribute {_shown(name)} is there twice")
        if len(value) > MAX_ATTRIBUTE_BYTES:
            raise Rejected("invalid_event", f"the attribute {_shown(name)} is longer than {MAX_ATTRIBUTE_BYTES} bytes")
        try:
            found[name] = value.decode()
        except UnicodeDecodeError:
            raise Rejected("invalid_event", f"the attribute {_shown(name)} is not UTF-8") from None
    return found


def _percent_decoded(name: str, value: bytes) -> bytes:
    """One round of it, quotes taken away first; what must be encoded and is not is an error."""
    if len(value) > MAX_ATTRIBUTE_BYTES * 3:
        raise Rejected("invalid_event", f"the header ce-{_shown(name)} is too long")
    if _QUOTED.fullmatch(value):
        value = _ESCAPED.sub(rb"\1", value[1:-1])
    if any(byte < 0x20 or byte > 0x7E for byte in value):
        raise Rejected("invalid_event", f"the header ce-{_shown(name)} must be percent-encoded UTF-8")
    return unquote_to_bytes(value)


def _shown(name: str) -> str:
    return ascii(name[:40])[1:-1]
