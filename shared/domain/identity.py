"""What makes an event itself: its identity, and the fingerprint of what it says.

Identity = (project, live or test, source, id). The time is not part of it, so a retry with a new
timestamp is still a duplicate. The fingerprint is over (type, subject, data) without the time and
without what Khata stamped: same identity and fingerprint = duplicate, other fingerprint = conflict.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from hashlib import blake2b
from struct import Struct
from typing import Any, NamedTuple

import msgspec

_MASK32 = 0xFFFF_FFFF
_length = Struct(">I").pack
_signed = Struct(">q").unpack
_EXACT = Context(prec=120, Emin=-(10**17), Emax=10**17)  # more digits than any number may have
# Far below the interpreter's own limit, which depends on how deep the caller stands: what one process can
# read, every other one can read, encode and hash.
MAX_DEPTH = 64


def identity_of(project: str, live: bool, source: str) -> Callable[[str], bytes]:
    """`identity_key` of many ids of one source: what they begin with is hashed once."""
    of_project, of_source = project.encode(), source.encode()
    begun = blake2b(
        b"%b%b\0\0\0\4%b%b%b"
        % (_length(len(of_project)), of_project, b"live" if live else b"test", _length(len(of_source)), of_source),
        digest_size=16,
    )

    def key(id: str) -> bytes:
        of_id = id.encode()
        hashed = begun.copy()
        hashed.update(_length(len(of_id)) + of_id)
        return hashed.digest()

    return key


def identity_key(project: str, live: bool, source: str, id: str) -> bytes:
    """16-byte digest. Parts are length-prefixed, so that ("a", "bc") never meets ("ab", "c")."""
    return identity_of(project, live, source)(id)


MAX_NUMBER_CHARACTERS = 100


def exact_number(text: str) -> int | Decimal:
    """A JSON number with a point or exponent, in one spelling: 1.50, 1.5 and 15e-1 are the same quantity.

    Raises ValueError for more than 100 characters: no quantity needs them, and each would cost all readers.
    """
    if len(text) > MAX_NUMBER_CHARACTERS:
        raise ValueError(f"a number may have at most {MAX_NUMBER_CHARACTERS} characters")
    try:
        with localcontext(_EXACT):
            value = Decimal(text).normalize()
    except ArithmeticError:
        raise ValueError(f"{text} is beyond any number that can be kept exactly") from None
    if not value:
        return 0
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    return int(value) if 0 <= exponent <= 40 else value


_decode = msgspec.json.Decoder(float_hook=exact_number).decode
_encode = msgspec.json.Encoder(order="deterministic", decimal_format="number").encode


def read_data(data: bytes) -> Any:
    """The payload with exact numbers (int or Decimal, one spelling each).

    Raises msgspec.DecodeError, also for more than 64 levels; UnicodeError and RecursionError for worse.
    """
    found = _decode(data)
    check_depth(found, data)
    return found


def check_depth(data: Any, encoded: bytes) -> None:
    """Raises msgspec.DecodeError for more than 64 levels; `encoded` is the JSON of `data`."""
    # Counting brackets is cheap and can only say too many (those inside texts): then look closely.
    if len(encoded) <= 2 * MAX_DEPTH:
        return
    if encoded.count(b"[") + encoded.count(b"{") > MAX_DEPTH and _depth(data) > MAX_DEPTH:
        raise msgspec.DecodeError(f"nested more than {MAX_DEPTH} levels deep")


def _depth(data: Any) -> int:
    level, depth = [data], 0
    while level := [one for one in level if isinstance(one, dict | list)]:
        depth += 1
        level = [child for one in level for child in (one.values() if isinstance(one, dict) else one)]
    return depth


def canonical(data: Any) -> bytes:
    """JSON of what `read_data` gave, in one spelling: keys in order, no spaces, each number in one form."""
    return _encode(data)


def fingerprint_of(type: str) -> Callable[[str, bytes], int]:
    """`payload_fingerprint` of many events of one type, from the subject and the canonical data."""
    of_type = type.encode()
    begun = blake2b(_length(len(of_type)) + of_type, digest_size=8)

    def fingerprint(subject: str, said: bytes) -> int:
        of_subject = subject.encode()
        hashed = begun.copy()
        hashed.update(_length(len(of_subject)) + of_subject + _length(len(said)) + said)
        number: int = _signed(hashed.digest())[0]
        return number

    return fingerprint


def payload_fingerprint(type: str, subject: str, data: Any) -> int:
    """Signed 64-bit fingerprint of (type, subject, data), `data` as `read_data` gives it.

    The order of keys, spaces and the spelling of a number do not matter.
    """
    return fingerprint_of(type)(subject, canonical(data))


class Fingerprint(NamedTuple):
    """Order-free fingerprint of a set of identities: sums of the halves of a 64-bit hash of each.

    A sum cannot overflow a signed 64-bit column below 2^31 members.
    """

    high: int = 0
    low: int = 0

    def with_key(self, key: bytes) -> Fingerprint:
        """The set with one more identity; the key is a digest already, its first 8 bytes are the hash."""
        number = int.from_bytes(key[:8], "big")
        return Fingerprint(self.high + (number >> 32), self.low + (number & _MASK32))

    def without_key(self, key: bytes) -> Fingerprint:
        """The set with one identity less, which must be in it."""
        number = int.from_bytes(key[:8], "big")
        return Fingerprint(self.high - (number >> 32), self.low - (number & _MASK32))

    def __add__(self, other: object) -> Fingerprint:
        if not isinstance(other, Fingerprint):
            return NotImplemented
        return Fingerprint(self.high + other.high, self.low + other.low)
