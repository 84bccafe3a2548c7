"""Client addresses: never readable unless asked for, the same everywhere, and nobody chooses his own."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request

from services.ingest.addresses import NONE, Addresses, networks
from services.ingest.settings import IngestSettings
from shared.domain.errors import Misconfigured
from shared.runtime.settings import load
from tests.support.services import peppers

PROXIES = networks("10.0.0.0/8, 192.0.2.1, fd00::/8")


def call(peer: str | None, forwarded: str | None = None) -> Request:
    headers = [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode("latin-1"))]
    scope: dict[str, Any] = {"type": "http", "headers": headers, "client": None if peer is None else (peer, 5000)}
    return Request(scope)


def clear(peer: str | None, forwarded: str | None = None, trusted: Any = PROXIES) -> str:
    return Addresses(peppers(), trusted, "clear").of(call(peer, forwarded)).removeprefix("clear.")


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("198.51.100.7", None, "198.51.100.7"),
        ("198.51.100.7", "203.0.113.9", "198.51.100.7"),  # no proxy of ours says so
        ("10.1.2.3", "203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "6.6.6.6, 203.0.113.9, 10.0.0.9,192.0.2.1", "203.0.113.9"),  # what the client wrote is not read
        ("10.1.2.3", "", "10.1.2.3"),
        ("10.1.2.3", "10.0.0.7", "10.0.0.7"),
        ("::ffff:10.1.2.3", "203.0.113.9", "203.0.113.9"),
        ("fd00::1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:aaaa::1", None, "2001:db8:1:2::/64"),
        ("fe80::1%eth0", None, "fe80::/64"),
        ("10.1.2.3", "a@b\x00, , ;", NONE),
        ("10.1.2.3", "1.1.1.1, " * 5_000 + "\xff", NONE),
        (None, None, NONE),
        ("/run/socket", None, NONE),
    ],
)
def test_the_client_is_the_first_that_is_no_proxy_of_ours(peer: str | None, forwarded: str | None, client: str) -> None:
    assert clear(peer, forwarded) == client


def test_a_line_that_the_client_wrote_itself_hides_nobody() -> None:
    request = call("10.1.2.3", "6.6.6.6")
    request.scope["headers"].append((b"x-forwarded-for", b"203.0.113.9"))
    assert Addresses(peppers(), PROXIES, "clear").of(request) == "clear.203.0.113.9"


def test_without_trusted_proxies_a_header_says_nothing() -> None:
    assert clear("127.0.0.1", "203.0.113.9", ()) == "127.0.0.1"


def test_a_hash_is_the_same_over_processes_and_another_under_another_pepper() -> None:
    first, again = (Addresses(peppers()).of(call("198.51.100.7")) for _ in range(2))
    assert first == again == "test1.245b72e3f152a684"
    assert Addresses(peppers()).of(call("198.51.100.8")) != first
    other = Addresses({"p2": b"\x11" * 32} | peppers()).of(call("198.51.100.7"))
    assert other.startswith("p2.")
    assert other[3:] != first[6:]


def test_wrong_networks_are_told_at_the_start() -> None:
    with pytest.raises(Misconfigured, match="INGEST_TRUSTED_PROXIES"):
        load(
            IngestSettings, kafka_bootstrap_servers="x:1", key_peppers="a:" + "0" * 64, INGEST_TRUSTED_PROXIES="nowhere"
        )
