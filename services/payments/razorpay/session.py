"""The HTTP session under the SDK: every answer is judged here, before the SDK sees it.

The SDK (2.0.1) tells errors as bare texts without a status, breaks on HTML, empty bodies, lists and bare strings,
and prints to stdout when a connection fails. It gets only what it can read: a JSON object with a 2xx.
"""

from __future__ import annotations

from typing import Any

import requests

from services.payments.gateway import GatewayRefused
from shared.domain.errors import ProviderAway

TEXT_LIMIT = 300
# Conflict and the throttling statuses heal by waiting; so does everything from 500 on.
LATER = (408, 409, 425, 429)
REFUSING_CODES = ("BAD_REQUEST_ERROR", "AUTHENTICATION_ERROR", "AUTHORIZATION_ERROR")


class Session(requests.Session):
    """Raises ProviderAway and GatewayRefused; their texts hold no secret: neither headers nor request bodies."""

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """One request, no redirects: Razorpay has none, and a key must not follow one."""
        kwargs["allow_redirects"] = False
        what = f"{request.method} {request.path_url.partition('?')[0]}"
        try:
            response = super().send(request, **kwargs)
        except requests.RequestException as error:
            raise ProviderAway(f"Razorpay {what}: {type(error).__name__}; the outcome is unknown") from None
        judge(what, response.status_code, response.content, _document(response))
        return response


def _document(response: requests.Response) -> object:
    """The body as JSON; None when it is not."""
    try:
        return response.json()
    except requests.exceptions.JSONDecodeError:
        return None


def judge(what: str, status: int, body: bytes, document: object) -> None:
    """Returns for a 2xx with a JSON object; else raises.

    Only Razorpay's own error envelope with a code that speaks of the request is a refusal. A 404 of its front
    door (`{"message": ...}`), a redirect, HTML, nothing at all: somebody else answered, ask again later.
    """
    if 200 <= status < 300:
        if isinstance(document, dict):
            return
        raise ProviderAway(f"Razorpay {what}: {status} with {_shape(body, document)}; the outcome is unknown")
    error = document.get("error") if isinstance(document, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    if 400 <= status < 500 and status not in LATER and isinstance(error, dict) and code in REFUSING_CODES:
        field = error.get("field")
        text = str(error.get("description") or "refused without a reason")[:TEXT_LIMIT]
        raise GatewayRefused(status, str(code), text, field if isinstance(field, str) else None)
    raise ProviderAway(f"Razorpay {what}: {status} with {code or _shape(body, document)}")


def _shape(body: bytes, document: object) -> str:
    """What kind of body it was; its text stays out of logs."""
    if not body:
        return "no body"
    return "no JSON" if document is None else f"a JSON {type(document).__name__}"
