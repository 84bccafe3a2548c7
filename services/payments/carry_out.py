"""Carry out the intents to make payment links: the only place that calls Razorpay to change something.

    1  lead: one process holds a session lock; whoever gets it gives up the claims of its predecessor, which is
       gone, so a quick restart waits for no lease
    2  claim an intent (a lease, attempt + 1)
    3  attempt 1 creates; a later one first looks by reference_id what an earlier one did
                                           crash before 4: the next leader claims it again and looks first
    4  BEGIN; still our attempt? store the link, settle what waited for it, resolve the intent; COMMIT

An empty list proves nothing (Razorpay's lists lag), but creating again is safe: a reference_id is taken once for
ever, so a second creation is refused, and then we look until the link appears. Should a leader be cut off from
Postgres while it calls, its successor may call beside it: the reference still allows one link, and step 4 of the
slower one finds that the attempt is no longer its own.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

from services.payments import link_store, payment_store
from services.payments.cases import close_cases, open_case
from services.payments.collect import CREATE_LINK
from services.payments.gateway import Gateway, GatewayRefused, LinkRequest, ProviderLink
from services.payments.match import CaseClass, OwnLink
from services.payments.object_locks import lock_objects_and_told_orders
from services.payments.settle import ACTOR, settle
from shared.audit.append import append
from shared.domain.errors import ProviderAway, Retryable
from shared.observability import logging
from shared.observability import names as metrics
from shared.postgres import intents
from shared.postgres.intents import Intent
from shared.postgres.leadership import Candidate, candidate
from shared.postgres.pool import Connection, Database
from shared.runtime.failpoints import failpoint
from shared.runtime.pause import pause
from shared.runtime.settings import DatabaseSettings

LEADERSHIP = f"intents:{CREATE_LINK}"
IDLE_S = 0.2
STANDBY_S = 0.5
BACKOFF_FIRST_S = 0.2
BACKOFF_MOST_S = 5.0
# Well inside the lease: an attempt that takes longer is given up and looked up by the next one.
ATTEMPT_S = 45.0
STUCK_ATTEMPTS = 20  # about an hour of trying: tell a person, and go on

log = logging.get(__name__)


@dataclass(frozen=True, slots=True)
class Worker:
    """Makes payment links; `topic` is the real name of payments.v1."""

    settings: DatabaseSettings
    database: Database
    gateway: Gateway
    topic: str
    calls: int = 4

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; what is being called then is finished first. Never raises for what time heals."""
        failures = 0
        while not stop.is_set():
            try:
                async with candidate(self.settings, "khata_payments", "intents") as leader:
                    if not await leader.leads(LEADERSHIP):
                        await pause(stop, STANDBY_S)
                        continue
                    await self._work(leader, stop)
                    failures = 0
            except* Retryable as group:
                failures += 1
                log.warning("intents.waiting", failures=failures, error=str(group.exceptions[0]))
                delay = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(failures, 8))
                await pause(stop, delay * random.uniform(0.5, 1))  # noqa: S311

    async def _work(self, leader: Candidate, stop: asyncio.Event) -> None:
        async with self.database.transaction() as connection:
            released = await intents.release_claims(connection, CREATE_LINK)
        log.info("intents.leads", kind=CREATE_LINK, released=released)
        free = asyncio.Semaphore(self.calls)
        async with asyncio.TaskGroup() as calls:
            while not stop.is_set():
                await free.acquire()
                if stop.is_set():
                    break  # waited for a free call; nothing new is begun
                intent = await self._next(leader)
                if intent is None:
                    free.release()
                    await pause(stop, IDLE_S)
                    continue
                task = calls.create_task(self.carry_out(intent))
                task.add_done_callback(lambda _: free.release())

    async def _next(self, leader: Candidate) -> Intent | None:
        await leader.still()
        async with self.database.transaction() as connection:
            return await intents.claim(connection, CREATE_LINK)

    async def carry_out(self, intent: Intent) -> None:
        """One attempt at one intent. Raises DatabaseAway: then the outcome is looked up by the next attempt."""
        await failpoint("payments.intent.before_call")
        own, request = await self._request(intent)
        try:
            async with asyncio.timeout(ATTEMPT_S):
                link = await make_link(self.gateway, request, intent.attempt)
        except (ProviderAway, TimeoutError) as error:
            await self._postpone(intent, own, str(error) or "no answer in time")
        except GatewayRefused as refused:
            await self._refused(intent, own, refused)
        else:
            await failpoint("payments.intent.after_call")
            await self._made(intent, own, link)

    async def _request(self, intent: Intent) -> tuple[OwnLink, LinkRequest]:
        async with self.database.connection() as connection:
            own = await link_store.by_reference(connection, intent.key)
            assert own is not None, f"intent {intent.key} was written together with its link"
            row = await (
                await connection.execute(
                    "SELECT name, email FROM catalogue.organisation WHERE id = %s", (own.organisation_id,)
                )
            ).fetchone()
        name, email = row or (own.organisation_id, None)
        number = str(intent.payload["invoice_number"])
        return own, LinkRequest(
            own.reference_id, own.amount_minor, own.currency, f"Invoice {number}", name, email, number
        )

    async def _made(self, intent: Intent, own: OwnLink, link: ProviderLink) -> None:
        """Step 4."""
        if (link.amount_minor, link.currency) != (own.amount_minor, own.currency):
            await self._give_up(
                intent,
                own,
                "link_differs",
                {"link_id": link.link_id, "amount_minor": link.amount_minor, "currency": link.currency},
                "Razorpay has a link of this reference over another amount: cancel it there, collect by hand",
            )
            return
        async with self.database.transaction() as connection:
            if not await _still_ours(connection, intent):
                return
            outcomes = await store_link(connection, link, self.topic)
            await intents.resolve(connection, intent, {"link_id": link.link_id})
            await close_cases(connection, own.reference_id, ("stuck", "link_refused"))
            await self._audit(connection, own, "payment_link.created", {"link_id": link.link_id})
        metrics.INTENTS.labels(CREATE_LINK, "done").inc()
        for outcome in outcomes:
            metrics.PAYMENTS_POSTED.labels(outcome).inc()

    async def _postpone(self, intent: Intent, own: OwnLink, error: str) -> None:
        log.warning("intent.postponed", kind=CREATE_LINK, key=intent.key, attempt=intent.attempt, error=error)
        async with self.database.transaction() as connection:
            if not await _still_ours(connection, intent):
                return
            await intents.postpone(connection, intent, error)
            if intent.attempt >= STUCK_ATTEMPTS:
                await open_case(
                    connection,
                    "stuck",
                    own.reference_id,
                    organisation_id=own.organisation_id,
                    evidence={"invoice_id": own.invoice_id, "attempts": intent.attempt, "error": error[:300]},
                    action="Razorpay has not made this link for long; see its status page. Khata goes on trying",
                )
        metrics.INTENTS.labels(CREATE_LINK, "postponed").inc()

    async def _refused(self, intent: Intent, own: OwnLink, refused: GatewayRefused) -> None:
        evidence: dict[str, str | int] = {"status": refused.status, "code": refused.code, "reason": refused.message}
        action = "correct what Razorpay refuses (the API key, the amount), then `khata payments retry`"
        await self._give_up(intent, own, "link_refused", evidence, action)

    async def _give_up(
        self, intent: Intent, own: OwnLink, case_class: CaseClass, evidence: dict[str, str | int], action: str
    ) -> None:
        log.error("intent.failed", kind=CREATE_LINK, key=intent.key, case=case_class, attempt=intent.attempt)
        async with self.database.transaction() as connection:
            if not await _still_ours(connection, intent):
                return
            await intents.fail(connection, intent, f"{case_class}: {evidence}")
            await open_case(
                connection,
                case_class,
                own.reference_id,
                organisation_id=own.organisation_id,
                evidence={"invoice_id": own.invoice_id, **evidence},
                action=action,
            )
            await self._audit(connection, own, "payment_link.failed", {"class": case_class})
        metrics.INTENTS.labels(CREATE_LINK, "failed").inc()

    async def _audit(self, connection: Connection, own: OwnLink, action: str, details: dict[str, Any]) -> None:
        await append(
            connection,
            actor=ACTOR,
            action=action,
            object_kind="payment_link",
            object_id=own.reference_id,
            organisation_id=own.organisation_id,
            details={"invoice_id": own.invoice_id, **details},
        )


async def make_link(gateway: Gateway, request: LinkRequest, attempt: int) -> ProviderLink:
    """The one link of this reference, made now or by an earlier attempt.

    Raises ProviderAway (try again: the next attempt looks first) and GatewayRefused. Why a creation was refused is
    asked of the list, not of the refusal's text: a link that is there answers it. The text only tells whether to
    go on waiting for a list that lags.
    """
    if attempt > 1 and (found := await gateway.link_by_reference(request.reference_id)):
        return found
    try:
        return await gateway.create_link(request)
    except GatewayRefused as refused:
        if refused.status != 400:
            raise
        if found := await gateway.link_by_reference(request.reference_id):
            return found
        if refused.field == "reference_id" or "reference" in refused.message.lower():
            raise ProviderAway("Razorpay has a link of this reference, but does not list it yet") from refused
        raise


async def store_link(connection: Connection, link: ProviderLink, topic: str) -> list[str]:
    """Keep the ids of our new link, and settle payments that came before them; returns what became of these."""
    await lock_objects_and_told_orders(connection, [found for found in (link.link_id, link.order_id) if found])
    await link_store.store_created(connection, link)
    order_id = await link_store.learn(connection, link.link_id) or link.order_id
    waiting = await payment_store.parked_under(connection, link.link_id, order_id)
    return await settle(connection, waiting, topic)


async def _still_ours(connection: Connection, intent: Intent) -> bool:
    """Whether this attempt is the current one; the row stays locked for the outcome."""
    row = await (
        await connection.execute("SELECT state, attempts FROM messaging.intent WHERE id = %s FOR UPDATE", (intent.id,))
    ).fetchone()
    return row == ("claimed", intent.attempt)
