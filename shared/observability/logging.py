"""JSON logs: one object a line on stdout, stable dotted event names, no payloads and no secrets."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import version
from typing import TextIO

import structlog

VERSION = version("khata")


def configure(service: str, level: str = "INFO", style: str = "json", stream: TextIO = sys.stdout) -> None:
    """Send structlog and the standard library's loggers (aiokafka, uvicorn) through one formatter."""
    stamps: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if style == "console" else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*stamps, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=stamps,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for noisy in ("aiokafka", "uvicorn.access", "uvicorn.error", "urllib3"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    structlog.contextvars.bind_contextvars(service=service, version=VERSION)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """A logger; call it with a dotted event name and fields: `log.info("batch.applied", fresh=12)`."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger
