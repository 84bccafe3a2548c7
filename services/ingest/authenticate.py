"""Who sends: an API key checked against its hash, from the catalogue cache alone."""

from __future__ import annotations

from datetime import UTC, datetime

from services.ingest.validate import Sender
from shared.catalogue import keys
from shared.catalogue.cache import CatalogueCache
from shared.domain.errors import Rejected

SCOPE = "events:write"


async def authenticate(authorization: str | None, cache: CatalogueCache, peppers: dict[str, bytes]) -> Sender:
    """Raises Rejected: `unauthenticated` (401; why is not told apart) or `forbidden` (403)."""
    if authorization is None:
        raise Rejected("unauthenticated", "send the API key as `Authorization: Bearer kh_live_...`")
    scheme, _, text = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise Rejected("unauthenticated", "the Authorization header must be `Bearer kh_live_...`")
    try:
        parsed = keys.parse(text.strip())
    except Rejected as error:
        raise Rejected("unauthenticated", error.message) from None
    if parsed.id not in cache.keys:
        await cache.refresh()  # it may have been made a moment ago
    known = cache.keys.get(parsed.id)
    pepper = peppers.get(known.pepper_id) if known else None
    if known is None or pepper is None or not keys.matches(pepper, parsed, bytes.fromhex(known.secret_hash)):
        raise Rejected("unauthenticated", "this API key is not known")
    now = datetime.now(UTC)
    if known.live != parsed.live or _over(known.revoked_at, now) or _over(known.expires_at, now):
        raise Rejected("unauthenticated", "this API key is no longer valid")
    if SCOPE not in known.scopes:
        raise Rejected("forbidden", f"this API key lacks the scope {SCOPE}")
    return Sender(known.project_id, known.live, known.id)


def _over(end: datetime | None, now: datetime) -> bool:
    return end is not None and end <= now
