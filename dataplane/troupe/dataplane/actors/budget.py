"""How much of what was delivered a worker may hold unacked, and each of its shards. Pure."""

from typing import Final

from troupe.broker.envelope import MAX_PAYLOAD
from troupe.broker.port import PREFETCH

UNACKED: Final = 256 * 1024 * 1024
"""Bytes of bodies that a worker holds unacked at most, were they all as large as they may be; but one of each shard in
any case. When it gets more shards, what is unacked then in the others goes beside until it is acked: within a minute,
since nothing stays unacked for longer."""


def share(budget: int, shards: int) -> int:
    """Deliveries that each of so many shards may hold unacked, so that all of them keep to `budget` bytes: a power of
    two, so that it seldom changes as shards come and go."""
    most = min(PREFETCH, budget // (MAX_PAYLOAD * max(1, shards)))
    return 1 << max(0, most.bit_length() - 1)
