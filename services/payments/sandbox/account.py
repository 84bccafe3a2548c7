"""The merchant account the sandbox plays: its ledger, clock, webhook and knobs, in one place."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from services.payments.sandbox.faults import Faults
from services.payments.sandbox.settings import Settings
from services.payments.sandbox.store import Store

DISABLED = "webhook_disabled_at"


class Knobs(BaseModel):
    """Disorder that can be changed while the sandbox runs; a restart goes back to the settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shuffle_seconds: float = Field(default=0, ge=0)
    duplicate_copies: int = Field(default=0, ge=0, le=20)
    drop_fraction: float = Field(default=0, ge=0, le=1)
    drop_events: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    auto_capture: bool = True


class Webhook(BaseModel):
    """Where events go. A new secret signs new events only; retries of older ones keep theirs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(default="", pattern=r"^(https?://.+)?$")
    secret: SecretStr = SecretStr("")


class Account:
    """Everything a handler needs. `clock` returns epoch seconds; tests may hand in their own."""

    def __init__(self, settings: Settings, store: Store, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.store = store
        self.clock = clock
        self.faults = Faults()
        self.webhook = Webhook(url=settings.webhook_url, secret=settings.webhook_secret)
        self.knobs = Knobs(
            shuffle_seconds=settings.shuffle_seconds,
            duplicate_copies=settings.duplicate_copies,
            drop_fraction=settings.drop_fraction,
            auto_capture=settings.auto_capture,
        )
        self.rng = random.Random(settings.seed)  # noqa: S311 - disorder for tests, not secrets
        self.refunds_in_flight: set[str] = set()
        self.wake_courier = asyncio.Event()

    def now(self) -> int:
        """Epoch seconds, as Razorpay stamps entities."""
        return int(self.clock())
