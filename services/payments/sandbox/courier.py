"""Carries queued webhook events to the endpoint, and lets links expire on time.

A process killed between an answer and its record sends that delivery again: at least once, as Razorpay promises.
"""

from __future__ import annotations

import asyncio

import httpx2
import structlog

from services.payments.sandbox import flows, outbox, webhooks
from services.payments.sandbox.account import Account
from services.payments.sandbox.outbox import Delivery

MAX_IN_FLIGHT = 32
# Longest pause between two looks: bounds how late a link expires.
TICK_S = 0.5

log = structlog.get_logger("sandbox.courier")


class Courier:
    """One loop that starts a task per due delivery. Slow endpoints hold up their own delivery only."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.in_flight: set[int] = set()

    async def run(self) -> None:
        """Work until cancelled. An unexpected error ends the loop and with it readiness."""
        limits = httpx2.Limits(max_connections=MAX_IN_FLIGHT)
        # Proxies of the environment must not see loopback traffic; a redirect counts as a failure.
        async with (
            httpx2.AsyncClient(limits=limits, timeout=None, trust_env=False, follow_redirects=False) as client,  # noqa: S113 - bounded in `send`
            asyncio.TaskGroup() as tasks,
        ):
            while True:
                self.account.wake_courier.clear()
                flows.expire_links(self.account)
                for delivery in self.take():
                    tasks.create_task(self.deliver(client, delivery))
                await self.pause()

    def take(self) -> list[Delivery]:
        """Due deliveries nobody is carrying yet, up to the free places."""
        connection, now = self.account.store.connection, self.account.clock()
        free = MAX_IN_FLIGHT - len(self.in_flight)
        due = outbox.due(connection, now, MAX_IN_FLIGHT) if free > 0 else []
        taken = [delivery for delivery in due if delivery.seq not in self.in_flight][:free]
        self.in_flight.update(delivery.seq for delivery in taken)
        return taken

    async def pause(self) -> None:
        """Sleep until something is queued, finished or due, and never longer than a tick."""
        now = self.account.clock()
        next_at = outbox.next_due_at(self.account.store.connection, now)
        wait_s = TICK_S if next_at is None else max(0.0, min(TICK_S, next_at - now))
        try:
            async with asyncio.timeout(wait_s):
                await self.account.wake_courier.wait()
        except TimeoutError:
            return

    async def deliver(self, client: httpx2.AsyncClient, delivery: Delivery) -> None:
        """One attempt and its consequence."""
        try:
            if delivery.rung > len(webhooks.GAPS_S):
                with self.account.store.transaction():
                    outbox.disable_webhook(self.account)
                log.error("webhook disabled", event_id=delivery.event_id, event_name=delivery.name)
                return
            status, problem = await self.send(client, delivery)
            self.conclude(delivery, status, problem)
        finally:
            self.in_flight.discard(delivery.seq)
            self.account.wake_courier.set()

    async def send(self, client: httpx2.AsyncClient, delivery: Delivery) -> tuple[int | None, str | None]:
        """`(status, None)` of the answer, or `(None, what went wrong)`."""
        try:
            async with asyncio.timeout(self.account.settings.webhook_timeout_s):
                answer = await client.post(
                    self.account.webhook.url,
                    content=delivery.body,
                    headers=webhooks.headers(delivery.event_id, delivery.signature),
                )
        except TimeoutError:
            return None, "timeout"
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            return None, type(error).__name__
        return answer.status_code, None

    def conclude(self, delivery: Delivery, status: int | None, problem: str | None) -> None:
        """Record the attempt; any 2xx ends the delivery, everything else climbs the ladder."""
        now = self.account.clock()
        connection = self.account.store.connection
        success = status is not None and 200 <= status < 300
        with self.account.store.transaction():
            outbox.record(connection, delivery, at=now, status=status, problem=problem)
            if success:
                outbox.delivered(connection, delivery)
            else:
                step = webhooks.after_failure(
                    delivery.name,
                    status,
                    rung=delivery.rung,
                    quick_used=delivery.quick_used,
                    now=now,
                    event_at=delivery.event_at,
                    scale=self.account.settings.ladder_scale,
                )
                outbox.postpone(connection, delivery, step)
        say = log.info if success else log.warning
        say(
            "webhook delivered" if success else "webhook not taken",
            event_name=delivery.name,
            event_id=delivery.event_id,
            status=status,
            problem=problem,
        )
