"""An HTTP server inside a running event loop: uvicorn without its own signal handling."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from shared.domain.errors import Misconfigured
from shared.runtime.http_protocol import BoundedHttp


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield  # the process handles signals (service.py)


class HttpServer:
    """Serve `app` on host:port (0 = any free one); `port` tells which after `start`."""

    def __init__(self, app: ASGIApp, host: str, port: int, variable: str) -> None:
        self._app, self._host, self._wanted, self._variable = app, host, port, variable
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """Raises Misconfigured when the port is taken or the address is not ours."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._host, self._wanted))
        except OSError as error:
            listener.close()
            raise Misconfigured(
                f"{self._variable}: cannot listen on {self._host}:{self._wanted} ({error.strerror}); "
                "choose another port, or 0 for any free one"
            ) from None
        self._socket, self.port = listener, listener.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            http=BoundedHttp,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,  # who may speak for a client is a setting of the service
            timeout_keep_alive=75,  # longer than a proxy keeps one: no call meets a connection that is being closed
            timeout_graceful_shutdown=15,
            backlog=2048,
            limit_concurrency=4096,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve([listener]))
        while not self._server.started:
            await asyncio.sleep(0.005)
            if self._task.done():
                await self._task

    async def stop(self) -> None:
        """Stop accepting, let requests in flight finish, then return."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        await self._task
        if self._socket is not None:
            self._socket.close()
