"""Calls to Razorpay through its SDK, on threads of their own.

The SDK blocks and its session is not documented as safe to share, so each thread has a client. Its retries stay off
(they repeat a POST without looking), every call has an explicit timeout (there is none by default) and fresh dicts
(its own defaults are shared and written to).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import razorpay

from services.payments.gateway import LinkRequest, ProviderLink
from services.payments.razorpay.session import Session
from services.payments.settings import RazorpaySettings
from shared.domain.errors import ProviderAway

LONGEST_DESCRIPTION = 2048
LONGEST_NAME = 50
LONGEST_EMAIL = 64
Document = dict[str, Any]


class RazorpayGateway:
    """`gateway.Gateway` on the real SDK. `close` once no call is open any more."""

    def __init__(self, settings: RazorpaySettings, threads: int) -> None:
        self._settings = settings
        self._timeout = (settings.razorpay_connect_timeout_s, settings.razorpay_read_timeout_s)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="razorpay")
        self._of_thread = threading.local()
        self._sessions: list[Session] = []

    async def create_link(self, request: LinkRequest) -> ProviderLink:
        """Raises ProviderAway (it may exist all the same), GatewayRefused (also when the reference is taken)."""
        document = link_document(request)
        return read_link(await self._call(lambda client: client.payment_link.create(document, timeout=self._timeout)))

    async def link_by_reference(self, reference_id: str) -> ProviderLink | None:
        """Raises ProviderAway, GatewayRefused. None proves nothing: Razorpay's lists lag behind."""
        query = {"reference_id": reference_id}
        answer = await self._call(lambda client: client.payment_link.all(query, timeout=self._timeout))
        links = answer.get("payment_links")
        if not isinstance(links, list):
            raise ProviderAway("Razorpay GET /v1/payment_links: no list of links")
        # Only what we asked for: should the filter ever be ignored, the newest link of another is no answer.
        mine = [link for link in links if isinstance(link, dict) and link.get("reference_id") == reference_id]
        return read_link(mine[0]) if mine else None

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for session in self._sessions:
            session.close()

    async def _call(self, call: Callable[[razorpay.Client], Any]) -> Document:
        def work() -> Document:
            answer: Document = call(self._client())
            return answer

        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _client(self) -> razorpay.Client:
        """This thread's client."""
        client = getattr(self._of_thread, "client", None)
        if client is None:
            settings, session = self._settings, Session()
            session.trust_env = not settings.is_loopback  # a proxy of the environment cannot reach our loopback
            self._sessions.append(session)
            client = razorpay.Client(
                auth=(settings.razorpay_key_id, settings.razorpay_key_secret.get_secret_value()),
                base_url=settings.razorpay_base_url,
                session=session,
            )
            self._of_thread.client = client
        return client


def link_document(request: LinkRequest) -> Document:
    """Body of POST /v1/payment_links. Khata tells the customer itself; the notes are for people at the dashboard."""
    customer = {"name": request.customer_name[:LONGEST_NAME]}
    if request.customer_email and len(request.customer_email) <= LONGEST_EMAIL:
        customer["email"] = request.customer_email
    return {
        "amount": request.amount_minor,
        "currency": request.currency,
        "reference_id": request.reference_id,
        "description": request.description[:LONGEST_DESCRIPTION],
        "customer": customer,
        "accept_partial": False,
        "notify": {"sms": False, "email": False},
        "reminder_enable": False,
        "notes": {"invoice": request.invoice_number},
    }


def read_link(entity: Document) -> ProviderLink:
    """Raises ProviderAway for an answer that is no payment link: then it is not known what happened."""
    texts = [entity.get(name) for name in ("id", "reference_id", "currency", "status", "short_url")]
    amount, order_id = entity.get("amount"), entity.get("order_id")
    if not all(isinstance(text, str) for text in texts) or not isinstance(amount, int) or isinstance(amount, bool):
        raise ProviderAway("Razorpay: the answer is no payment link; the outcome is unknown")
    link_id, reference_id, currency, status, short_url = (str(text) for text in texts)
    return ProviderLink(
        link_id, reference_id, amount, currency, status, short_url, order_id if isinstance(order_id, str) else None
    )
