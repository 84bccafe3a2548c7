"""What payments asks of a payment provider, and the two ways it can say no.

ProviderAway (shared): no answer, or none that says anything about the request (timeout, connection cut, 5xx, 429,
HTML, empty body). It may have acted all the same. GatewayRefused: it read the request and refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shared.domain.errors import Rejected


class GatewayRefused(Rejected):
    """The provider refuses this request and will refuse it again; `code` and the text are the provider's own."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(code, message)
        self.status, self.field = status, field


@dataclass(frozen=True, slots=True)
class LinkRequest:
    """A payment link to ask for. `reference_id` (at most 40 characters) makes asking twice harmless."""

    reference_id: str
    amount_minor: int
    currency: str
    description: str
    customer_name: str
    customer_email: str | None
    invoice_number: str


@dataclass(frozen=True, slots=True)
class ProviderLink:
    """A payment link as the provider has it; it has an order once a customer has opened it."""

    link_id: str
    reference_id: str
    amount_minor: int
    currency: str
    status: str
    short_url: str
    order_id: str | None


class Gateway(Protocol):
    """A payment provider. Every call raises ProviderAway or GatewayRefused."""

    async def create_link(self, request: LinkRequest) -> ProviderLink:
        """Make a link. A reference_id is taken once for ever: a second creation is refused."""

    async def link_by_reference(self, reference_id: str) -> ProviderLink | None:
        """The link of that reference; None proves nothing, lists lag behind."""
