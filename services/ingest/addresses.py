"""Where a call comes from, told so that it can be compared and not read.

An address is personal data. By default it is an HMAC-SHA256, cut to 64 bits, under a key made from the first pepper:
the same over processes and restarts, another under another pepper (whose id stands before it, so that whoever
compares knows). `INGEST_ADDRESSES=clear` keeps it readable. IPv6 counts by its /64 network: hosts change the rest
daily.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal

from starlette.requests import Request

FORWARDED = "x-forwarded-for"
MOST_HOPS = 16  # proxies of ours before a client; who sends more says nothing
PURPOSE = b"khata client address v1"
LONGEST = 64  # characters: an IPv6 address with the zone of a link-local one
NONE = "none"  # no address: a socket without one, a header that holds something else

Network = IPv4Network | IPv6Network


class Addresses:
    """`trusted`: networks of proxies whose X-Forwarded-For is believed; none: the peer is the client."""

    def __init__(
        self, peppers: dict[str, bytes], trusted: Sequence[Network] = (), keep: Literal["hashed", "clear"] = "hashed"
    ) -> None:
        scheme, pepper = next(iter(peppers.items()))
        self._any_trusted = bool(trusted)

        def is_trusted(text: str) -> bool:
            address = _parsed(text)
            return address is not None and any(address in network for network in trusted)

        key = hmac.digest(pepper, PURPOSE, "sha256")

        def told(address: str) -> str:
            place = _place(address)
            if place is None:
                return NONE
            if keep == "clear":
                return f"clear.{place}"
            return f"{scheme}.{hmac.digest(key, place.encode(), 'sha256')[:8].hex()}"

        # Of what a header says only texts as long as an address get here: what is remembered is small.
        self._told, self._is_trusted = lru_cache(maxsize=4096)(told), lru_cache(maxsize=4096)(is_trusted)

    def of(self, request: Request) -> str:
        """The client of a call. Never raises: a header may hold anything."""
        peer = request.client.host if request.client else ""
        if not self._any_trusted:
            return self._told(peer)
        # All lines of the header: a proxy may add one of its own to that of the client (RFC 9110 section 5.3).
        return self._told(self._client(peer, ",".join(request.headers.getlist(FORWARDED))))

    def _client(self, peer: str, forwarded: str) -> str:
        """From the peer backwards through proxies of ours: the first that is none. What that one says is not read."""
        client, hops = peer, forwarded.rsplit(",", MOST_HOPS)
        for hop in reversed(hops):
            if not self._is_trusted(client) or not (said := hop.strip()):
                break
            if len(said) > LONGEST or _parsed(said) is None:
                return ""  # a proxy of ours passed something on that is no address
            client = said
        return client


def networks(text: str) -> tuple[Network, ...]:
    """`10.0.0.0/8, 192.0.2.1, 2001:db8::/32`. Raises ValueError."""
    return tuple(ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip())


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0])  # without the zone of a link-local one
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _place(text: str) -> str | None:
    """The address, or the network of an IPv6 one; None for what is no address."""
    address = _parsed(text)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, 64), strict=False))
    return None if address is None else str(address)
