"""Settings of the invoicer."""

from __future__ import annotations

from shared.runtime.settings import DatabaseSettings, KafkaSettings, ProcessSettings


class InvoicerSettings(ProcessSettings, KafkaSettings, DatabaseSettings):
    """`khata run invoicer` and the `invoices` commands."""
