"""A producer over HTTP: sends batches, tells what became of each event, and never guesses.

Used by `khata events import` and the demo. A call without an answer, or with 503, may or may not have been
taken: the same events (same ids and times) are sent again until there is an answer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import httpx2

from shared.domain.errors import BrokerAway, Rejected, Usage

BATCH = "application/cloudevents-batch+json"
TIMEOUT_S = 30.0
BACKOFF_MOST_S = 2.0
RETRIED = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Answer:
    """What ingest said of one batch: how many it took, and (index, code, message) of each it refused."""

    accepted: int
    refused: tuple[tuple[int, str, str], ...]
    attempts: int


@dataclass
class IngestClient:
    """Sends to one ingest address with one key. `patience_s`: how long to repeat one batch before giving up."""

    url: str
    key: str = field(repr=False)
    patience_s: float = 120.0
    _http: httpx2.AsyncClient = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self.key}", "Content-Type": BATCH}, timeout=TIMEOUT_S
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def send(self, events: Sequence[bytes], *, validate_only: bool = False) -> Answer:
        """Send a batch until it is answered; `validate_only` asks what would become of it and sends nothing.

        Raises Usage (the key is wrong), BrokerAway (no answer in time), Rejected (the batch as a whole is wrong).
        """
        body = b"[" + b",".join(events) + b"]"
        loop = asyncio.get_running_loop()
        end = loop.time() + self.patience_s
        url = f"{self.url}/v1/events" + ("?validate_only=true" if validate_only else "")
        attempts = 0
        while True:
            attempts += 1
            try:
                response = await self._http.post(url, content=body)
            except httpx2.TransportError as error:
                trouble, wanted_s = str(error) or type(error).__name__, 0.0
            else:
                if response.status_code not in RETRIED:
                    return _answer(response, len(events), attempts)
                trouble, wanted_s = f"HTTP {response.status_code}", _retry_after_s(response)
            if loop.time() > end:
                raise BrokerAway(f"{self.url} has not taken the events for {self.patience_s:g} s ({trouble})")
            backoff_s = min(BACKOFF_MOST_S, 0.05 * 2 ** min(attempts, 8)) * random.uniform(0.5, 1)  # noqa: S311
            await asyncio.sleep(max(backoff_s, min(wanted_s, end - loop.time())))


def _retry_after_s(response: httpx2.Response) -> float:
    """Only 429: a limit is over when it says; 503 may be over at once."""
    text = response.headers.get("retry-after", "")
    return float(text) if response.status_code == 429 and text.isascii() and text.isdecimal() else 0.0


def _answer(response: httpx2.Response, sent: int, attempts: int) -> Answer:
    document: dict[str, Any] = response.json()
    if response.status_code in (401, 403):
        raise Usage(f"ingest refuses the key: {document['detail']}")
    if response.is_success or "errors" in document:
        refused = tuple((error["index"], error["code"], error["message"]) for error in document["errors"])
        return Answer(document.get("accepted", 0), refused, attempts)
    if sent == 1:
        return Answer(0, ((0, document["code"], document["detail"]),), attempts)
    raise Rejected(document["code"], document["detail"])
