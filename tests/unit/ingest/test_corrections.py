"""Corrections at the doors: taken without a meter, their shape checked, other types of Khata's own refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from services.ingest.validate import Clock, Envelope, Sender, is_known, stamp
from shared.contracts.messages.event import StampedEvent
from shared.domain.errors import Rejected
from shared.domain.meter import MeterIndex

NOBODY = MeterIndex.of([])
VOID = {"target": {"id": "wrong"}}


def stamped(type: str, data: Any, *, unknown_types: bool = False) -> StampedEvent:
    envelope = Envelope("1.0", "fix", "desk", type, "alice", data=msgspec.Raw(msgspec.json.encode(data)))
    clock = Clock(datetime(2026, 10, 1, tzinfo=UTC), timedelta(days=400))
    return stamp(envelope, Sender("acme-app", True), NOBODY, clock, "test", 1, accept_unknown_types=unknown_types)


@pytest.mark.parametrize("unknown_types", [False, True])
def test_a_correction_is_taken_without_a_meter_and_is_not_marked_as_lacking_one(unknown_types: bool) -> None:
    made = stamped("khata.usage.void", VOID, unknown_types=unknown_types)
    assert (made.type, made.unmetered, bytes(made.data)) == ("khata.usage.void", False, b'{"target":{"id":"wrong"}}')
    made = stamped("khata.usage.amend", VOID | {"data": {"tokens": 1}}, unknown_types=unknown_types)
    assert made.unmetered is False


@pytest.mark.parametrize("unknown_types", [False, True])
@pytest.mark.parametrize(
    ("type", "data", "code"),
    [
        ("khata.usage.void", {"target": "wrong"}, "invalid_correction"),
        ("khata.usage.amend", VOID, "invalid_correction"),
        ("khata.usage.vodi", VOID, "reserved_type"),
        ("khata.anything", {}, "reserved_type"),
    ],
)
def test_what_is_no_correction_is_refused_with_its_code(type: str, data: Any, code: str, unknown_types: bool) -> None:
    with pytest.raises(Rejected) as refused:
        stamped(type, data, unknown_types=unknown_types)
    assert refused.value.code == code


def test_nobody_waits_for_a_newer_catalogue_to_know_them() -> None:
    assert is_known("khata.usage.void", NOBODY)
    assert not is_known("api.request", NOBODY)
