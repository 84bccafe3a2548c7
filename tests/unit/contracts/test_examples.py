"""Golden examples: what one side writes and the other reads, byte for byte.

Producers' encoders must write exactly the file; consumers' decoders must read it. A change that breaks an
example breaks whoever runs the version before.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.aggregator.watch.hours_state import decode_series, encode_series
from services.aggregator.watch.state import decode_state, encode_state
from services.ingest.validate import Clock, Sender, read_envelope, stamp
from shared.catalogue.cache import CatalogueCache
from shared.contracts.messages.activity import decode_activity, encode_activity
from shared.contracts.messages.anomaly import decode_anomaly, encode_anomaly
from shared.contracts.messages.catalogue import ApiKeyMessage, MeterMessage, decode_catalogue, encode_catalogue, key_of
from shared.contracts.messages.event import decode_event, encode_event
from shared.contracts.messages.invoice import decode_invoice, encode_invoice
from shared.contracts.messages.payment import PaymentMessage, decode_webhook, encode_payment, encode_webhook
from shared.contracts.messages.process import decode_beat, encode_beat
from shared.contracts.messages.receipt import decode_receipt, encode_receipt
from shared.contracts.messages.spool import decode_spool, encode_spool
from shared.contracts.messages.window import decode_window, encode_window, window_key
from shared.contracts.topics import TOPICS
from shared.domain.meter import MeterIndex

EXAMPLES = Path(__file__).parents[3] / "shared" / "contracts" / "examples"

CODECS: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = {
    "usage.events.v1": (decode_event, encode_event),
    "catalogue.v1": (decode_catalogue, encode_catalogue),
    "invoices.v1": (decode_invoice, encode_invoice),
    "payments.v1": (msgspec.json.Decoder(PaymentMessage).decode, encode_payment),
    "payments.webhooks.v1": (decode_webhook, encode_webhook),
    "spools.v1": (decode_spool, encode_spool),
    "ingest.processes.v1": (decode_beat, encode_beat),
    "ingest.receipts.v1": (decode_receipt, encode_receipt),
    "keys.activity.v1": (decode_activity, encode_activity),
    "watch.state.v1": (decode_state, encode_state),
    "anomalies.v1": (decode_anomaly, encode_anomaly),
    "usage.windows.v1": (decode_window, encode_window),
    "watch.hours.v1": (decode_series, encode_series),
}


def example(topic: str, name: str) -> bytes:
    return (EXAMPLES / topic / f"{name}.json").read_bytes().rstrip(b"\n")


def test_every_topic_has_examples() -> None:
    assert {topic.name for topic in TOPICS} <= {path.name for path in EXAMPLES.iterdir()}
    assert all(list(folder.glob("*.json")) for folder in EXAMPLES.iterdir())


@pytest.mark.parametrize(
    ("topic", "name"),
    [(topic, path.stem) for topic in CODECS for path in sorted((EXAMPLES / topic).glob("*.json"))],
)
def test_what_is_written_is_read_and_written_again_as_the_same_bytes(topic: str, name: str) -> None:
    decode, encode = CODECS[topic]
    assert encode(decode(example(topic, name))) == example(topic, name)


def test_a_stamped_event_means_what_its_producer_sent() -> None:
    event = decode_event(example("usage.events.v1", "over_http"))
    assert event.time == datetime(2026, 10, 31, 18, 29, 59, tzinfo=UTC)
    assert bytes(event.data) == b'{"tokens": 1.250, "model": "m"}'
    assert (event.project, event.live, event.keyid, event.specversion) == ("acme-app", True, "0123456789abcdef", "1.0")
    bare = decode_event(example("usage.events.v1", "over_kafka_in_test_mode"))
    assert (bare.live, bytes(bare.data), bare.keyid) == (False, b"null", "")


@pytest.mark.parametrize(
    "damage",
    [
        (b'"2026-10-31T18:29:59Z"', b'"2026-10-31T18:29:59"'),
        (b'"subject":"alice"', b'"subject":"al\\u0000ice"'),
        (b'"live":true', b'"live":"yes"'),
        (b'"source":"checkout",', b""),
    ],
)
def test_what_ingest_would_never_write_is_refused_by_the_decoder(damage: tuple[bytes, bytes]) -> None:
    whole = example("usage.events.v1", "over_http")
    assert damage[0] in whole
    with pytest.raises(msgspec.DecodeError):
        decode_event(whole.replace(*damage))


def test_a_raw_event_is_taken_by_the_door_as_it_stands() -> None:
    cache = CatalogueCache()
    cache.learn(example("catalogue.v1", "meter_sum"))
    clock = Clock(datetime(2026, 11, 1, tzinfo=UTC), timedelta(days=400))
    event = _stamped("structured", cache.meters, clock)
    assert event.time == datetime(2026, 10, 31, 18, 29, 59, tzinfo=UTC)
    assert bytes(event.data) == b'{"tokens":1.250}'
    assert _stamped("test_mode_without_time", cache.meters, clock).time == clock.now


def _stamped(name: str, meters: MeterIndex, clock: Clock) -> Any:
    envelope = read_envelope(example("usage.raw.v1", name))
    assert envelope.project is not None
    return stamp(envelope, Sender(envelope.project, envelope.mode == "live"), meters, clock, "ingest-1", 1)


def test_record_keys_of_the_catalogue_keep_one_entity_each() -> None:
    messages = [decode_catalogue(path.read_bytes()) for path in sorted((EXAMPLES / "catalogue.v1").glob("*.json"))]
    keys = {key_of(message) for message in messages}
    assert keys == {
        b"organisation/acme",
        b"project/acme-app",
        b"meter/tokens@1",
        b"meter/requests@1",
        b"api_key/0123456789abcdef",
    }
    assert {type(message) for message in messages} > {ApiKeyMessage, MeterMessage}


def test_the_key_of_a_window_says_which_window_it_is() -> None:
    window = decode_window(example("usage.windows.v1", "sum_by_model"))
    assert window_key(window) == (
        b'["acme-app","live","alice","tokens",1,"{\\"model\\":\\"m\\"}","2026-10-31T17:30:00Z"]'
    )
