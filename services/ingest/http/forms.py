"""The forms in which events come: structured, batch, plain JSON, binary. Pure."""

from __future__ import annotations

from starlette.datastructures import Headers, QueryParams

from services.ingest.binary import envelope_of, http_attributes
from services.ingest.validate import Envelope, is_json, split
from shared.domain.errors import Rejected

MAX_EVENTS = 1_000

ONE = "application/cloudevents+json"
MANY = "application/cloudevents-batch+json"
EITHER = "application/json"


def events_of(headers: Headers, body: bytes) -> list[bytes | Envelope]:
    """The events of a call: bytes still to be decoded or, in binary mode, the envelope.

    `application/cloudevents...` is never binary mode; anything else is, once there is a `ce-` header.
    Raises Rejected: `unsupported_media_type`, `malformed`, `invalid_event`, `too_large`, `too_many_events`.
    """
    content_type = headers.get("content-type", EITHER)
    media_type = content_type.partition(";")[0].strip(" \t").lower()
    if not media_type.startswith("application/cloudevents"):
        attributes = http_attributes(headers.raw)
        if attributes:
            return [envelope_of(attributes, content_type, body)]
    if media_type not in (ONE, MANY, EITHER):
        more = f"; or {EITHER} with ce- headers (binary mode)" if is_json(media_type) else ""
        raise Rejected("unsupported_media_type", f"content-type must be {ONE}, {MANY} or {EITHER}{more}")
    is_array = body.lstrip(b" \t\r\n")[:1] == b"["
    if media_type == ONE or (media_type == EITHER and not is_array):
        return [body]
    raws = split(body)
    if not raws:
        raise Rejected("malformed", "the batch holds no events")
    if len(raws) > MAX_EVENTS:
        raise Rejected("too_many_events", f"a call may hold at most {MAX_EVENTS} events")
    return list(raws)


def validate_only(parameters: QueryParams) -> bool:
    """Whether the caller only asks. A parameter that is misspelt is refused: who asks must not send.

    Raises Rejected (`invalid_parameter`).
    """
    pairs = parameters.multi_items()
    if any(name != "validate_only" for name, _ in pairs):
        raise Rejected("invalid_parameter", "the only parameter is validate_only")
    if not pairs:
        return False
    if len(pairs) > 1 or pairs[0][1] not in ("true", "false"):
        raise Rejected("invalid_parameter", "validate_only must be true or false, once")
    return pairs[0][1] == "true"
