"""Corrections: events that take another event back, or give it other data.

A correction is an event like any other, with an identity of its own and the subject of its target (so it stands in the
target's partition). Its `data` names the target: `{"target": {"source": ..., "id": ...}, "reason": ...}`, the source
being the correction's own where it is left out; an amend has the whole new `data` of the target beside it. The target
keeps its identity, type, subject and time.
"""

from __future__ import annotations

from typing import Any

import msgspec

from shared.domain.errors import Rejected
from shared.domain.identity import canonical, identity_key

RESERVED = "khata."
"""What event types of Khata's own begin with: no meter may name one."""
VOID, AMEND = "khata.usage.void", "khata.usage.amend"
CORRECTIONS = frozenset((VOID, AMEND))

MAX_ID, MAX_SOURCE, MAX_REASON = 256, 512, 500  # characters
_FIELDS = {VOID: frozenset(("target", "reason")), AMEND: frozenset(("target", "reason", "data"))}


class Correction(msgspec.Struct, frozen=True, gc=False):
    """What a correction says. `data`: canonical JSON of the target's new data; None takes the target back."""

    target_key: bytes
    target_source: str
    target_id: str
    reason: str
    data: bytes | None

    @property
    def kind(self) -> str:
        return "void" if self.data is None else "amend"


def is_reserved(event_type: str) -> bool:
    """Whether a producer may not use this type."""
    return event_type.startswith(RESERVED) and event_type not in CORRECTIONS


def read_correction(event_type: str, project: str, live: bool, source: str, id: str, data: Any) -> Correction:
    """From the envelope of an event of one of CORRECTIONS; `data` as `read_data` gives it.

    Raises Rejected (`invalid_correction`).
    """
    if not isinstance(data, dict):
        raise _invalid(f'data must be an object like {{"target": {{"id": "..."}}}}, not {_name(data)}')
    if unknown := sorted(data.keys() - _FIELDS[event_type]):
        raise _invalid(f"data has {', '.join(map(repr, unknown))}, which {event_type} does not take")
    target = data.get("target")
    if not isinstance(target, dict):
        raise _invalid("data.target must be an object with the id of the event that is corrected, and its source")
    if unknown := sorted(target.keys() - {"source", "id"}):
        raise _invalid(f"data.target has {', '.join(map(repr, unknown))}; it takes source and id")
    target_source = _text("data.target.source", target.get("source", source), MAX_SOURCE)
    target_id = _text("data.target.id", target.get("id"), MAX_ID)
    if (target_source, target_id) == (source, id):
        raise _invalid("a correction cannot correct itself: data.target names the event that is wrong")
    reason = data.get("reason")
    if event_type == AMEND and "data" not in data:
        raise _invalid("an amend needs data.data: the whole new data of its target")
    return Correction(
        target_key=identity_key(project, live, target_source, target_id),
        target_source=target_source,
        target_id=target_id,
        reason="" if reason is None else _text("data.reason", reason, MAX_REASON),
        data=canonical(data["data"]) if event_type == AMEND else None,
    )


def _text(name: str, value: Any, longest: int) -> str:
    if not isinstance(value, str) or not value:
        raise _invalid(f"{name} must be a text" + (" and is missing" if value is None else ""))
    if len(value) > longest:
        raise _invalid(f"{name} may have at most {longest} characters")
    if "\0" in value:
        raise _invalid(f"{name} must not hold a NUL")
    return value


def _name(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def _invalid(message: str) -> Rejected:
    return Rejected("invalid_correction", message)
