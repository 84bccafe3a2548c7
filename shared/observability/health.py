"""/livez, /readyz and /metrics on a port of their own, so that they are not published with the API.

/livez says that the event loop answers and never checks a dependency; /readyz asks each registered
check and is 503 while one fails or the process drains.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

Check = Callable[[], Awaitable[str | None]]
"""Returns None when fine, else one sentence on what is wrong."""


@dataclass
class Health:
    """Readiness of one process: services register their checks by name, all at once; not ready before that."""

    checks: dict[str, Check] = field(default_factory=dict)
    draining: bool = False

    async def problems(self) -> dict[str, str]:
        found = {} if not self.draining else {"draining": "the process is stopping"}
        if not self.checks:  # the port answers before the service has got as far as registering them
            found["starting"] = "the process is starting"
        for name, check in self.checks.items():
            if (problem := await check()) is not None:
                found[name] = problem
        return found


def routes(health: Health) -> list[Route]:
    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        problems = await health.problems()
        body = json.dumps({"ready": not problems, "problems": problems, "checks": sorted(health.checks)})
        return Response(body, status_code=503 if problems else 200, media_type="application/json")

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return [
        Route("/livez", livez),
        Route("/healthz", livez),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
    ]


def app(health: Health) -> Starlette:
    return Starlette(routes=routes(health))
