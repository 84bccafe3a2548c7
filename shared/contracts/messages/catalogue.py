"""`catalogue.v1`: who may send what. Compacted by key `<kind>/<id>`; lower versions are ignored by readers.

There are no tombstones for keys: a revoked key stays, with `revoked_at`.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec import UNSET, UnsetType


class Limit(msgspec.Struct, frozen=True):
    """Events per second in the long run, and how many may come at once."""

    per_second: int
    burst: int


class OrganisationMessage(msgspec.Struct, frozen=True, tag="organisation", tag_field="kind"):
    id: str
    version: int
    name: str
    currency: str
    time_zone: str
    limit: Limit | UnsetType = UNSET  # of all its keys together; not there: unlimited


class ProjectMessage(msgspec.Struct, frozen=True, omit_defaults=True, tag="project", tag_field="kind"):
    id: str
    version: int
    organisation_id: str
    name: str
    accept_unknown_types: bool = False  # events that no meter counts are kept, not refused
    raw_topic: bool = False  # its own door on Kafka: usage.raw.<project>.v1


class ApiKeyMessage(msgspec.Struct, frozen=True, tag="api_key", tag_field="kind"):
    """`secret_hash` is HMAC-SHA256(pepper, secret) in hex; the secret is nowhere."""

    id: str
    version: int
    organisation_id: str
    project_id: str
    live: bool
    secret_hash: str
    pepper_id: str
    scopes: tuple[str, ...]
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    limit: Limit | UnsetType = UNSET  # not there: unlimited


class MeterMessage(msgspec.Struct, frozen=True, tag="meter", tag_field="kind"):
    """`id` is `<meter id>@<version>` in the record key; here the plain meter id.

    Numbers are texts and `filters`, `group_by` are JSON in texts (shared/domain/definition.py), so that nothing is
    rounded on the way. What is not there is not set.
    """

    id: str
    version: int
    name: str
    event_type: str
    aggregation: str
    value_path: str | None
    unit: str
    billable: bool
    clamp_min: str | UnsetType = UNSET
    clamp_max: str | UnsetType = UNSET
    filters: str | UnsetType = UNSET
    group_by: str | UnsetType = UNSET
    late: str | UnsetType = UNSET  # not there: next_invoice
    effective_from: datetime | UnsetType = UNSET  # this version counts from this hour on; not there: always


CatalogueMessage = OrganisationMessage | ProjectMessage | ApiKeyMessage | MeterMessage

_decoder: msgspec.json.Decoder[CatalogueMessage] = msgspec.json.Decoder(CatalogueMessage)


def decode_catalogue(value: bytes) -> CatalogueMessage:
    """Raises msgspec.DecodeError for a message of no known kind or shape."""
    return _decoder.decode(value)


def encode_catalogue(message: CatalogueMessage) -> bytes:
    return msgspec.json.encode(message)


def key_of(message: CatalogueMessage) -> bytes:
    """Record key: one entity (for a meter: one version of it) per key."""
    kind = type(message).__struct_config__.tag
    suffix = f"@{message.version}" if isinstance(message, MeterMessage) else ""
    return f"{kind}/{message.id}{suffix}".encode()
