"""Which messages of a session have a record: certainly not, or perhaps. Pure.

A message whose id is certainly new need not be looked up in the store before its turn. Newest ids are kept as they
are; older ones fade into Bloom filters, which take two bytes for each and answer wrongly, with "perhaps", about once
in four hundred times. What is not known from the beginning, and what is too much, may have a record.
"""

from collections.abc import Iterable
from typing import Final

PLAIN: Final = 256
"""Ids that are kept as they are."""
FADED: Final = 2_048
"""Ids in one filter."""
FILTERS: Final = 16
"""Filters of a session, 64 KiB together. One with more messages than that is asked for in the store."""
_BITS: Final = 16 * FADED
_SHIFTS: Final = (0, 15, 30, 45)
"""Where in an id's hash its four bits are named; a name has 15 bits, as many as `_BITS` needs."""


class Recorded:
    """Ids, of which no one is forgotten. `complete`: there are no others."""

    def __init__(self, ids: Iterable[str] = (), *, complete: bool = True) -> None:
        self._plain = dict.fromkeys(ids)
        self._filters: list[bytearray] = []
        self._room = 0
        self._complete = complete

    def add(self, message_id: str) -> None:
        self._plain[message_id] = None
        if len(self._plain) > PLAIN:
            oldest = next(iter(self._plain))
            del self._plain[oldest]
            self._fade(oldest)

    def may_hold(self, message_id: str) -> bool:
        """False: it certainly was not added."""
        if message_id in self._plain or not self._complete:
            return True
        named = hash(message_id)
        return any(
            all(bits[at >> 3] & 1 << (at & 7) for at in (named >> shift & _BITS - 1 for shift in _SHIFTS))
            for bits in self._filters
        )

    def _fade(self, message_id: str) -> None:
        if not self._complete:
            return
        if not self._room:
            if len(self._filters) == FILTERS:
                self._filters, self._complete = [], False
                return
            self._filters.append(bytearray(_BITS // 8))
            self._room = FADED
        self._room -= 1
        bits, named = self._filters[-1], hash(message_id)
        for shift in _SHIFTS:
            at = named >> shift & _BITS - 1
            bits[at >> 3] |= 1 << (at & 7)
