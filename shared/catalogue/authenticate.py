"""Who asks: an API key checked against its hash, from the catalogue cache alone."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from shared.catalogue import keys
from shared.catalogue.cache import CatalogueCache
from shared.contracts.messages.catalogue import ApiKeyMessage
from shared.domain.errors import BrokerAway, Rejected
from shared.observability import logging, names

# Older than that the catalogue cannot tell a wrong key from one that was made since.
KNOWS_ALL_S = 10.0
TELL_EVERY_S = 60.0

log = logging.get(__name__)
_told: dict[str, float] = {}


async def authenticate(
    authorization: str | None, cache: CatalogueCache, peppers: dict[str, bytes], scope: str
) -> ApiKeyMessage:
    """Raises Rejected: `unauthenticated` (401; why is not told apart) or `forbidden` (403: it lacks the scope).

    Raises BrokerAway (503) while the catalogue is too old to let anyone in, or to know a new key.
    """
    cache.require_usable()
    if authorization is None:
        raise Rejected("unauthenticated", "send the API key as `Authorization: Bearer kh_live_...`")
    scheme, _, text = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise Rejected("unauthenticated", "the Authorization header must be `Bearer kh_live_...`")
    try:
        parsed = keys.parse(text.strip())
    except Rejected as error:
        raise Rejected("unauthenticated", error.message) from None
    known = cache.keys.get(parsed.id)
    if known is None:
        known = await _made_since(parsed.id, cache)
    pepper = peppers.get(known.pepper_id)
    if pepper is None:
        _tell_missing_pepper(known)
    if pepper is None or not keys.matches(pepper, parsed, bytes.fromhex(known.secret_hash)):
        raise Rejected("unauthenticated", "this API key is not known")
    expired = known.expires_at is not None and known.expires_at <= datetime.now(UTC)
    # revoked is revoked: when is told by the database's clock, which may be ahead of ours
    if known.live != parsed.live or known.revoked_at is not None or expired:
        raise Rejected("unauthenticated", "this API key is no longer valid")
    if scope not in known.scopes:
        raise Rejected("forbidden", f"this API key lacks the scope {scope}")
    return known


async def _made_since(id: str, cache: CatalogueCache) -> ApiKeyMessage:
    """A key that is not known yet: it may have been made a moment ago."""
    await cache.refresh()
    known = cache.keys.get(id)
    if known is not None:
        return known
    if cache.stale_s() > KNOWS_ALL_S:
        raise BrokerAway(f"an unknown key, and the catalogue is {cache.stale_s():.0f} s old: it may be new")
    raise Rejected("unauthenticated", "this API key is not known")


def _tell_missing_pepper(key: ApiKeyMessage) -> None:
    names.KEY_PEPPER_UNKNOWN.labels(key.pepper_id).inc()
    now = time.monotonic()
    if now - _told.get(key.pepper_id, -TELL_EVERY_S) >= TELL_EVERY_S:
        _told[key.pepper_id] = now
        log.error("key.pepper_unknown", pepper=key.pepper_id, key_id=key.id, hint="KEY_PEPPERS lacks it")
