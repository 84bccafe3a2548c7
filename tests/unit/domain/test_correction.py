"""What a correction may say, and which event it names."""

from __future__ import annotations

from typing import Any

import pytest

from shared.domain.correction import AMEND, VOID, Correction, is_reserved, read_correction
from shared.domain.errors import Rejected
from shared.domain.identity import identity_key

TARGET = {"id": "wrong", "source": "meter"}


def read(data: Any, type: str = VOID) -> Correction:
    return read_correction(type, "acme-app", True, "desk", "fix", data)


def test_a_void_names_its_target_and_may_say_why() -> None:
    said = read({"target": TARGET, "reason": "sent twice"})
    assert said == Correction(identity_key("acme-app", True, "meter", "wrong"), "meter", "wrong", "sent twice", None)
    assert said.kind == "void"


def test_an_amend_carries_the_new_data_in_one_spelling_without_rounding() -> None:
    said = read({"target": TARGET, "data": {"b": 1, "a": None}}, AMEND)
    assert (said.kind, said.data) == ("amend", b'{"a":null,"b":1}')


def test_the_source_of_the_target_is_the_corrections_own_where_it_is_left_out() -> None:
    assert read({"target": {"id": "wrong"}}).target_key == identity_key("acme-app", True, "desk", "wrong")


@pytest.mark.parametrize(
    ("type", "data", "says"),
    [
        (VOID, None, "data must be an object"),
        (VOID, ["wrong"], "data must be an object"),
        (VOID, {}, "data.target must be an object"),
        (VOID, {"target": "wrong"}, "data.target must be an object"),
        (VOID, {"target": {}}, "data.target.id must be a text and is missing"),
        (VOID, {"target": {"id": 7}}, "data.target.id must be a text"),
        (VOID, {"target": {"id": ""}}, "data.target.id must be a text"),
        (VOID, {"target": {"id": "x" * 257}}, "at most 256"),
        (VOID, {"target": {"id": "a\0"}}, "NUL"),
        (VOID, {"target": {"id": "wrong", "source": "x" * 513}}, "at most 512"),
        (VOID, {"target": {"id": "wrong", "time": 1}}, "'time'"),
        (VOID, {"target": TARGET, "reason": 5}, "data.reason must be a text"),
        (VOID, {"target": TARGET, "reason": "x" * 501}, "at most 500"),
        (VOID, {"target": TARGET, "data": {}}, "'data', which khata.usage.void does not take"),
        (VOID, {"target": TARGET, "raeson": "x"}, "'raeson'"),
        (VOID, {"target": {"id": "fix"}}, "cannot correct itself"),
        (AMEND, {"target": TARGET}, "needs data.data"),
    ],
)
def test_a_shape_that_means_nothing_is_refused_with_what_is_wrong(type: str, data: Any, says: str) -> None:
    with pytest.raises(Rejected, match=says) as refused:
        read(data, type)
    assert refused.value.code == "invalid_correction"


def test_types_of_khata_that_are_no_corrections_are_reserved() -> None:
    assert [is_reserved(type) for type in ("khata.usage.vodi", "khata.x", VOID, AMEND, "khatabook.entry")] == [
        *(True, True, False, False, False),
    ]
