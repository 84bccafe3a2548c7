"""Every shape of answer is either a result, "later", or a refusal of Razorpay's own (razorpay.md 1.3 and 3)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.payments.gateway import GatewayRefused
from services.payments.razorpay.session import judge
from shared.domain.errors import ProviderAway

NONE = object()


def answer(status: int, document: Any = NONE, body: bytes | None = None) -> None:
    raw = body if body is not None else json.dumps(document).encode()
    judge("POST /v1/payment_links", status, raw, None if document is NONE else document)


def error(code: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"code": code, "description": "what is wrong", **fields}}


def test_an_object_with_a_2xx_is_a_result() -> None:
    answer(200, {"id": "plink_1"})


@pytest.mark.parametrize(
    ("status", "document", "body"),
    [
        (200, [], None),
        (200, NONE, b"<html>"),
        (204, NONE, b""),
        (302, {"moved": True}, None),
        (404, {"message": "no Route matched with those values"}, None),
        (400, {"error": "text"}, None),
        (400, "an error text", None),
        (400, NONE, b""),
        (400, error("GATEWAY_ERROR"), None),
        (400, error("SERVER_ERROR"), None),
        (409, error("BAD_REQUEST_ERROR"), None),
        (429, error("BAD_REQUEST_ERROR"), None),
        (500, error("SERVER_ERROR"), None),
        (500, NONE, b""),
        (502, NONE, b"<html>502 Bad Gateway</html>"),
        (502, error("GATEWAY_ERROR"), None),
        (503, error("BAD_REQUEST_ERROR"), None),
    ],
)
def test_what_says_nothing_about_the_request_is_tried_again(status: int, document: Any, body: bytes | None) -> None:
    with pytest.raises(ProviderAway, match=str(status)):
        answer(status, document, body)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_razorpays_own_refusal_keeps_status_code_text_and_field(status: int) -> None:
    with pytest.raises(GatewayRefused) as refused:
        answer(status, error("BAD_REQUEST_ERROR", field="amount"))
    found = refused.value
    assert (found.status, found.code, found.message, found.field) == (
        status,
        "BAD_REQUEST_ERROR",
        "what is wrong",
        "amount",
    )


def test_the_text_of_a_body_stays_out_of_the_error() -> None:
    with pytest.raises(ProviderAway) as away:
        answer(502, body=b"<html>card 4111</html>")
    assert "4111" not in str(away.value)
