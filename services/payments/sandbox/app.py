"""Puts the sandbox together and runs it: HTTP on loopback, and the courier beside it."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import NoReturn

import structlog
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.payments.sandbox import customer, oracle
from services.payments.sandbox.account import Account
from services.payments.sandbox.api.routes import routes as api_routes
from services.payments.sandbox.courier import Courier
from services.payments.sandbox.errors import NO_URL, ApiError
from services.payments.sandbox.replies import TransportInState, reply
from services.payments.sandbox.settings import Settings
from services.payments.sandbox.store import Store

log = structlog.get_logger("sandbox")

EXIT_MISCONFIGURED = 78


def build(settings: Settings, clock: Callable[[], float] = time.time) -> Starlette:
    """The whole sandbox as an ASGI application; its lifespan runs the courier and closes the ledger.

    `clock` returns epoch seconds. Cutting a connection (`commit_then_drop`) needs the protocol class `serve` gives to
    uvicorn.
    """
    account = Account(settings, Store(settings.data), clock)
    work: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        courier = asyncio.create_task(Courier(account).run(), name="courier")
        courier.add_done_callback(_tell_end)
        work.add(courier)
        try:
            yield
        finally:
            courier.cancel()
            await asyncio.gather(courier, return_exceptions=True)
            account.store.close()

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        account.store.flag("ready")  # the file can be read, or this raises
        running = any(not task.done() for task in work)
        return PlainTextResponse("ok\n" if running else "the courier has stopped\n", 200 if running else 503)

    app = Starlette(
        routes=[
            *api_routes(account),
            *customer.routes(account),
            *oracle.routes(account),
            Route("/livez", livez),
            Route("/readyz", readyz),
        ],
        middleware=[Middleware(AccessLog)],
        exception_handlers={HTTPException: _no_url},
        lifespan=lifespan,
    )
    app.state.account = account
    app.router.redirect_slashes = False  # Razorpay redirects nothing
    return app


def _no_url(_: Request, error: Exception) -> Response:
    """Unknown path or method: Razorpay answers 404 to both."""
    known = isinstance(error, HTTPException) and error.status_code not in (404, 405)
    return reply(ApiError(str(error) if known else NO_URL, status=404).body(), 404)


def _tell_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("courier stopped", exc_info=error)


class AccessLog:
    """One line per call. Paths hold ids only; queries, headers and bodies are not logged."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on and log what it was answered; `null` for a connection that was cut."""
        if scope["type"] != "http" or scope["path"] in ("/livez", "/readyz"):
            await self.app(scope, receive, send)
            return
        status: int | None = None
        started = time.perf_counter()

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, note)
        finally:
            took_ms = round((time.perf_counter() - started) * 1000, 1)
            log.info("call", method=scope["method"], path=scope["path"], status=status, took_ms=took_ms)


def configure_logging() -> None:
    """One JSON object per line on stdout, also for what the HTTP server itself has to say."""
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    json_line = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, json_line],
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    foreign = logging.StreamHandler(sys.stdout)
    foreign.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, json_line],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(handlers=[foreign], level=logging.WARNING, force=True)


def _stop(_: int, __: FrameType | None) -> NoReturn:
    """End with 0. Uvicorn raises the signal again once it has stopped, so this also runs after a graceful end."""
    raise SystemExit(0)


def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Calls still open get one second; what they committed stays."""
    configure_logging()
    signal.signal(signal.SIGTERM, _stop)
    log.info("starting", url=settings.base_url, key_id=settings.key_id, webhook=settings.webhook_url or None)
    uvicorn.run(
        build(settings),
        host="127.0.0.1",
        port=settings.http_port,
        http=TransportInState,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,  # as long as a proxy keeps one: idle SDK sessions must not meet a closed connection
        timeout_graceful_shutdown=1,
    )


def main() -> None:
    """Entry point of `khata run sandbox`: settings from the environment, exit 78 when they are wrong."""
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False, include_context=False):
            name = "SANDBOX_" + "_".join(str(part) for part in problem["loc"]).upper()
            print(f"{name}: {problem['msg']}", file=sys.stderr)
        raise SystemExit(EXIT_MISCONFIGURED) from None
    serve(settings)


if __name__ == "__main__":
    main()
