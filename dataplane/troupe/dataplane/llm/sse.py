"""Server-sent events, as far as chat completions use them: bytes in, the data of each event out.

Follows the WHATWG specification: lines end in LF, CR LF or CR, a leading byte order mark is dropped, several `data`
lines of an event are joined with LF, lines that start with a colon are comments, other fields carry nothing here, and
an event whose end has not come is not one.
"""

from typing import Final

MAX_EVENT: Final = 4 * 1024 * 1024
"""Bytes of one event that has not ended."""


class EventTooLarge(ValueError):
    """An event went on for more than `MAX_EVENT` bytes."""


class EventParser:
    """Feed it the bytes as they come, cut anywhere."""

    __slots__ = ("_after_cr", "_data", "_first", "_held", "_tail")

    def __init__(self) -> None:
        self._tail: list[bytes] = []
        """Pieces of a line whose end has not come."""
        self._data: list[bytes] = []
        """Data lines of an event whose end has not come."""
        self._held = 0
        """Bytes in both, and one for each piece."""
        self._first = True
        self._after_cr = False

    def feed(self, received: bytes) -> list[bytes]:
        """The data of every event that ends within these bytes. Raises EventTooLarge."""
        if not received:
            return []
        if self._after_cr:
            received = received.removeprefix(b"\n")
        self._after_cr = received.endswith(b"\r")  # an LF at the start of what comes next belongs to this end
        events: list[bytes] = []
        for line in received.splitlines(keepends=True):
            if line[-1] not in _LINE_ENDS:
                self._hold(self._tail, line)
                break
            text = line.rstrip(b"\r\n")
            if self._tail:
                text = b"".join((*self._release(self._tail), text))
            if self._first:
                self._first = False
                text = text.removeprefix(_BYTE_ORDER_MARK)
            if text.startswith(b"data:"):
                self._hold(self._data, text[6:] if text.startswith(b"data: ") else text[5:])
            elif text == b"data":
                self._hold(self._data, b"")
            elif not text and self._data:
                events.append(b"\n".join(self._release(self._data)))
        return events

    def _hold(self, where: list[bytes], piece: bytes) -> None:
        where.append(piece)
        self._held += len(piece) + 1
        if self._held > MAX_EVENT:
            raise EventTooLarge(f"an event of more than {MAX_EVENT} bytes")

    def _release(self, where: list[bytes]) -> list[bytes]:
        pieces = where.copy()
        where.clear()
        self._held -= sum(map(len, pieces)) + len(pieces)
        return pieces


_LINE_ENDS: Final = b"\r\n"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
