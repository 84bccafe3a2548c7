"""Wire the receiver: a producer and one HTTP route. Any number of them may run side by side."""

from __future__ import annotations

from services.payments import receive
from services.payments.settings import ReceiverSettings
from shared.contracts.topics import PAYMENTS_WEBHOOKS
from shared.kafka import topics
from shared.kafka.producer import Producer
from shared.observability import logging
from shared.runtime import service
from shared.runtime.http import HttpServer
from shared.runtime.service import Process

log = logging.get(__name__)


async def run(settings: ReceiverSettings, process: Process) -> None:
    """Listen once the topic is there; on stop finish the deliveries in flight, then flush."""
    await topics.require(settings, (PAYMENTS_WEBHOOKS,))
    producer = Producer(settings, f"receiver-{settings.instance}")
    process.health.checks["kafka"] = producer.check
    door = receive.Door(
        producer, settings.names.topic(PAYMENTS_WEBHOOKS), settings.webhook_secrets, settings.ack_deadline_s
    )
    server = HttpServer(receive.app(door), settings.host, settings.http_port, "HTTP_PORT")
    try:
        await producer.start()
        await server.start()
        log.info("receiver.open", http_port=server.port, secrets=len(settings.webhook_secrets))
        await process.stop.wait()
        await server.stop()
    finally:
        await producer.stop()


def main() -> int:
    return service.main("receiver", ReceiverSettings, run)


if __name__ == "__main__":
    raise SystemExit(main())
