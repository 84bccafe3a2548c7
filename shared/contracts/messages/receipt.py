"""`ingest.receipts.v1`: what a process knows that Kafka has taken from it, minute by minute.

The independent witness for reconciliation: every record a receipt names must be in the log, whatever else is lost.
The other way round nothing is promised: a record whose ack never came (`unanswered`), or came to a process that was
killed before its minute was published, is in the log and in no receipt.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
import xxhash

Instant = Annotated[datetime, msgspec.Meta(tz=True)]

_MASK64 = 0xFFFF_FFFF_FFFF_FFFF


class AckedRange(msgspec.Struct, frozen=True, kw_only=True):
    """Records of one process in one partition; records of others may lie between them. `topic` is the real name.

    In the log they are those whose header `spool` is `spool`, or, where that is empty, those without this header
    whose `ingestid` is the process.
    """

    topic: str
    partition: int
    spool: str
    first_offset: int
    last_offset: int
    count: int
    fingerprint: str  # of the values, see `fingerprint`; 16 hexadecimal digits


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """One minute of one process. A gap in `sequence` is a receipt that was lost; `last` says that none follows."""

    process: str
    sequence: int  # 1, 2, 3 ... of this process
    minute: Instant  # its start, by the process's clock; an ack counts for the minute in which it came
    ranges: tuple[AckedRange, ...]
    unanswered: int  # records that were sent and whose ack never came: perhaps in the log
    last: bool


_decoder = msgspec.json.Decoder(Receipt)
_encoder = msgspec.json.Encoder()


def decode_receipt(value: bytes) -> Receipt:
    """Raises msgspec.DecodeError (ValidationError included)."""
    return _decoder.decode(value)


def encode_receipt(receipt: Receipt) -> bytes:
    return _encoder.encode(receipt)


hash_of_value = xxhash.xxh3_64_intdigest
"""XXH3 (64 bits) of a record's value. It finds faults of machines; nobody is kept from forging it."""


def fingerprint(sum_of_hashes: int) -> str:
    """Order-free: the sum of all hashes, modulo 2^64."""
    return f"{sum_of_hashes & _MASK64:016x}"
