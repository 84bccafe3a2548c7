"""The limit of the HTTP door: reads, checks and encodes the same events, and answers without Kafka."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.ingest.validate import Clock, Sender, read_envelope, split, stamp
from shared.contracts.messages.event import encode_event
from shared.domain.meter import Meter, MeterIndex

METERS = MeterIndex.of([Meter("bench_sum", 1, "", "bench.request", "sum", "tokens")])


async def events(request: Request) -> Response:
    clock = Clock(datetime.now(UTC), timedelta(days=400))
    encoded = [
        encode_event(stamp(read_envelope(raw), Sender("bench-app", True), METERS, clock, "limit", 1))
        for raw in split(await request.body())
    ]
    return Response(orjson.dumps({"accepted": len(encoded)}), status_code=202, media_type="application/json")


async def livez(_: Request) -> Response:
    return Response("ok")


if __name__ == "__main__":
    app = Starlette(routes=[Route("/v1/events", events, methods=["POST"]), Route("/livez", livez)])
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
