"""API keys: `kh_live_` or `kh_test_`, a public 16-character id, a 256-bit secret, a checksum.

Stored as HMAC-SHA256 under a pepper that has an id; the key itself is shown once. The checksum
rejects typos without a look-up; the comparison takes constant time.
"""

from __future__ import annotations

import hmac
import re
import secrets
import string
import zlib
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import msgspec
from pydantic import Field, SecretStr, field_validator

from shared.domain.errors import Rejected
from shared.runtime.settings import Settings

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_LENGTH = 16
_SECRET_LENGTH = 43  # 62^43 > 2^256
_CHECK_LENGTH = 6
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_FORM = re.compile(
    rf"^kh_(live|test)_([0-9A-Za-z]{{{_ID_LENGTH}}})([0-9A-Za-z]{{{_SECRET_LENGTH}}})([0-9A-Za-z]{{6}})$"
)


class PepperSettings(Settings):
    """Peppers by id, the first one for new keys: `KEY_PEPPERS=p2:hex,p1:hex`."""

    key_peppers: SecretStr = Field(
        description="id:64 hex digits[,id:64 hex digits]; make one with `openssl rand -hex 32`"
    )

    @field_validator("key_peppers")
    @classmethod
    def _well_formed(cls, value: SecretStr) -> SecretStr:
        for part in value.get_secret_value().split(","):
            if not re.fullmatch(r"[a-z0-9]{1,16}:[0-9a-f]{64}", part.strip()):
                raise ValueError("each pepper must be id:64 hex digits")
        return value

    @cached_property
    def peppers(self) -> dict[str, bytes]:
        """By id, the one for new keys first."""
        parts = (part.strip().split(":") for part in self.key_peppers.get_secret_value().split(","))
        return {name: bytes.fromhex(digits) for name, digits in parts}


class ParsedKey(msgspec.Struct, frozen=True):
    """What a well-formed key says; nothing about it is proven yet. `secret` never leaves the process."""

    id: str
    live: bool
    secret: str

    def __repr__(self) -> str:
        return f"ParsedKey(id={self.id!r}, live={self.live})"


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A new key: `text` is shown once; the rest is what is stored of it."""

    text: str = field(repr=False)
    id: str
    live: bool
    secret_hash: bytes
    pepper_id: str

    @classmethod
    def under(cls, peppers: dict[str, bytes], live: bool) -> MadeKey:
        """Under the first pepper."""
        text, parsed = make(live)
        pepper_id, pepper = next(iter(peppers.items()))
        return cls(text, parsed.id, live, hash_secret(pepper, parsed), pepper_id)


def make(live: bool) -> tuple[str, ParsedKey]:
    """A new key: its full text, to be shown once, and its parts."""
    id = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))
    body = f"kh_{'live' if live else 'test'}_{id}{secret}"
    return body + _checksum(body), ParsedKey(id, live, secret)


def parse(text: str) -> ParsedKey:
    """Raises Rejected (`invalid_key`) for anything that cannot be a key; the text is never repeated."""
    match = _FORM.match(text)
    if match is None or not hmac.compare_digest(_checksum(text[:-_CHECK_LENGTH]), match[4]):
        raise Rejected("invalid_key", "this is not a Khata API key (kh_live_... or kh_test_..., copied whole)")
    return ParsedKey(id=match[2], live=match[1] == "live", secret=match[3])


def hash_secret(pepper: bytes, key: ParsedKey) -> bytes:
    """What is stored: HMAC-SHA256 under the pepper over id and secret."""
    keyed = _keyed(pepper).copy()
    keyed.update(f"{key.id}:{key.secret}".encode())
    return keyed.digest()


def matches(pepper: bytes, key: ParsedKey, stored_hash: bytes) -> bool:
    return hmac.compare_digest(hash_secret(pepper, key), stored_hash)


def _checksum(body: str) -> str:
    """CRC-32 in base 62, two digits at a time."""
    number, low = divmod(zlib.crc32(body.encode()), len(_PAIRS))
    high, middle = divmod(number, len(_PAIRS))
    return _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]


@lru_cache(maxsize=64)
def _keyed(pepper: bytes) -> hmac.HMAC:
    """Preparing a pepper costs as much as hashing a key under it."""
    return hmac.new(pepper, digestmod="sha256")
