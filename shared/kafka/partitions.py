"""On which partition a key is, whoever sends it."""

from __future__ import annotations

from aiokafka.partitioner import DefaultPartitioner

_choose = DefaultPartitioner()


def partition_of(key: bytes, of: int) -> int:
    """Where every producer of ours puts a key, of so many partitions (murmur2, as Java does)."""
    everything = range(of)
    return int(_choose(key, everything, everything))
