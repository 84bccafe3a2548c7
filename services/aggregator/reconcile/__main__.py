"""One scheduled run, as a process of its own: `schedule.py` starts it."""

from __future__ import annotations

import asyncio
import os

from services.aggregator.reconcile.run import ReconcileSettings
from services.aggregator.reconcile.schedule import main
from shared.observability import logging
from shared.runtime.settings import ProcessSettings, load

NICE = 10  # counting comes first


class _Settings(ProcessSettings, ReconcileSettings):
    pass


def _run() -> int:
    os.nice(NICE)
    settings = load(_Settings)
    logging.configure("reconcile", settings.log_level, settings.log_format)
    return asyncio.run(main(settings))


if __name__ == "__main__":
    raise SystemExit(_run())
