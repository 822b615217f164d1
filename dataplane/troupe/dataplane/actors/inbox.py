"""What waits in a session's inbox: in its order, by number, by message, and which of it may start. Pure.

A session may have many thousand messages waiting, so nothing here walks through them: what is looked for stands at
the head of a heap, and what has left since is dropped when it comes up there.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from troupe.broker.order import Number, Place, Position
from troupe.dataplane.state.session import Entry, Verbs

NO_VERBS: Final = Verbs()
SPARE: Final = 64
"""Entries of a heap beyond twice what waits from which on it is made anew."""


@dataclass(frozen=True, slots=True)
class Start:
    """This one, now."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Wait:
    """The next one has failed and waits until then; those behind it wait with it."""

    until: float


@dataclass(frozen=True, slots=True)
class Suspended:
    """The next one waits for a promise or for RESUME; those behind it wait with it."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Held:
    """Nothing may start: this one may still run under its mark."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Gap:
    """Nothing may start: `missing` has not come."""

    missing: Number


@dataclass(frozen=True, slots=True)
class Empty:
    """Nothing waits."""


Choice = Start | Wait | Suspended | Held | Gap | Empty


@dataclass(frozen=True, slots=True)
class Run:
    """Numbers of a stream that have not come, one after another."""

    stream: str
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def within(self, other: "Run | None") -> "Run | None":
        """What is also of `other`, where that begins no later."""
        if other is None or other.stream != self.stream or not other.first <= self.first <= other.last:
            return None
        return Run(self.stream, self.first, min(self.last, other.last))


class Inbox:
    """Entries, and how far each stream has come. Each call takes a time that grows with the logarithm of what waits,
    but for iterating, and for `gaps`, which looks at every stream that has something waiting."""

    def __init__(self, entries: Sequence[Entry] = (), positions: Mapping[str, Position] | None = None) -> None:
        self._positions = dict(positions or {})
        self._entries: dict[Number, Entry] = {}
        self._ranks: dict[Number, int] = {}
        self._head = self._tail = 0
        # Heaps. Ranks grow along the inbox; one that its number no longer has is left over.
        self._all: list[tuple[int, Number]] = []
        self._next: list[tuple[int, Number]] = []
        self._sequences: dict[str, list[int]] = {}
        self._counts: Counter[str] = Counter()
        self._by_id: dict[str, dict[Number, None]] = {}
        self._marked: dict[Number, None] = {}
        self.live = 0
        """Entries that are no SKIPs."""
        for entry in entries:
            self.append(entry)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        """In order. Sorts."""
        return iter(sorted(self._entries.values(), key=lambda entry: self._ranks[entry.number]))

    def __contains__(self, number: object) -> bool:
        return number in self._entries

    def get(self, number: Number) -> Entry | None:
        return self._entries.get(number)

    def of(self, message_id: str) -> list[Entry]:
        """Where the message waits, foremost first."""
        numbers = sorted(self._by_id.get(message_id, ()), key=self._ranks.__getitem__)
        return [self._entries[number] for number in numbers]

    def place(self, number: Number) -> Place:
        return self._position(number.stream).place(number.sequence)

    def append(self, entry: Entry) -> None:
        """It stands at the end."""
        self._remove(entry.number)
        self._tail += 1
        self._insert(entry, self._tail)

    def put_first(self, entry: Entry) -> None:
        """It stands at the head, wherever it stood."""
        self._remove(entry.number)
        self._head -= 1
        self._insert(entry, self._head)

    def replace(self, entry: Entry) -> None:
        """It takes the place of the one with its number, which must wait."""
        self._forget(self._entries[entry.number])
        self._note(entry)

    def settle(self, number: Number) -> None:
        """Its number is settled, unless it was before."""
        position = self._position(number.stream)
        self._remove(number)
        if position.place(number.sequence) is Place.NEXT:
            self._move(number.stream, position.settle(number.sequence))

    def pass_over(self, number: Number, count: int) -> None:
        """`number` and those after it were given up, `count` in all; the first came next."""
        self._move(number.stream, self._position(number.stream).pass_over(count))

    def choose(self, now: float, verbs: Verbs = NO_VERBS) -> Choice:
        """The first entry whose number comes next in its stream, unless one stands under a mark. What is cancelled
        waits for nothing more."""
        for number in self._marked:
            return Held(self._entries[number])
        if (found := self._first(self._next)) is not None:
            if found.skip or found.message_id in verbs.cancelled:
                return Start(found)
            if found.awaits or found.message_id in verbs.paused:
                return Suspended(found)
            return Start(found) if found.not_before <= now else Wait(found.not_before)
        if (first := self._first(self._all)) is None:
            return Empty()
        return Gap(Number(first.number.stream, self._position(first.number.stream).settled + 1))

    def following(self, first: Entry) -> Iterator[Entry]:
        """What could start after `first`, which comes next, one after the other, were each of them settled in turn."""
        ahead, positions = first, dict[str, Position]()
        known = {number for rank, number in self._next if self._ranks.get(number) == rank} | {first.number}
        heap = [(self._ranks[number], number.stream, number.sequence) for number in known - {first.number}]
        heapq.heapify(heap)
        while True:
            stream = ahead.number.stream
            positions[stream] = positions.get(stream, self._position(stream)).settle(ahead.number.sequence)
            behind = Number(stream, positions[stream].settled + 1)
            if behind in self._entries and behind not in known:
                known.add(behind)
                heapq.heappush(heap, (self._ranks[behind], stream, behind.sequence))
            if not heap:
                return
            _, stream, sequence = heapq.heappop(heap)
            ahead = self._entries[Number(stream, sequence)]
            yield ahead

    def gaps(self) -> list[Run]:
        """For each stream whose foremost number waits for others: those."""
        return [run for stream in self._sequences if (run := self.gap(stream)) is not None]

    def gap(self, stream: str) -> Run | None:
        """Those that the stream's foremost waiting number waits for."""
        sequences, settled = self._sequences.get(stream), self._position(stream).settled
        if sequences is None:
            return None
        while Number(stream, sequences[0]) not in self._entries:
            heapq.heappop(sequences)
        return Run(stream, settled + 1, sequences[0] - 1) if sequences[0] > settled + 1 else None

    def _position(self, stream: str) -> Position:
        return self._positions.get(stream, _NEW)

    def _move(self, stream: str, position: Position) -> None:
        self._positions[stream] = position
        following = Number(stream, position.settled + 1)
        if following in self._entries:
            self._push(self._next, self._ranks[following], following)

    def _insert(self, entry: Entry, rank: int) -> None:
        number = entry.number
        self._ranks[number] = rank
        self._note(entry)
        self._push(self._all, rank, number)
        if self.place(number) is Place.NEXT:
            self._push(self._next, rank, number)
        self._counts[number.stream] += 1
        sequences = self._sequences.setdefault(number.stream, [])
        heapq.heappush(sequences, number.sequence)
        if len(sequences) > SPARE + 2 * len(self._entries):
            self._sequences[number.stream] = sorted(
                {sequence for sequence in sequences if Number(number.stream, sequence) in self._entries}
            )

    def _push(self, heap: list[tuple[int, Number]], rank: int, number: Number) -> None:
        heapq.heappush(heap, (rank, number))
        if len(heap) > SPARE + 2 * len(self._entries):
            heap[:] = sorted({item for item in heap if self._ranks.get(item[1]) == item[0]}, key=lambda item: item[0])

    def _first(self, heap: list[tuple[int, Number]]) -> Entry | None:
        while heap and self._ranks.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return self._entries[heap[0][1]] if heap else None

    def _remove(self, number: Number) -> None:
        if (entry := self._entries.get(number)) is not None:
            self._forget(entry)
            del self._entries[number], self._ranks[number]
            self._counts[number.stream] -= 1
            if not self._counts[number.stream]:
                del self._counts[number.stream], self._sequences[number.stream]

    def _note(self, entry: Entry) -> None:
        self._entries[entry.number] = entry
        self._by_id.setdefault(entry.message_id, {})[entry.number] = None
        self.live += not entry.skip
        if entry.running is not None and not entry.skip:
            self._marked[entry.number] = None

    def _forget(self, entry: Entry) -> None:
        numbers = self._by_id[entry.message_id]
        del numbers[entry.number]
        if not numbers:
            del self._by_id[entry.message_id]
        self.live -= not entry.skip
        self._marked.pop(entry.number, None)


_NEW: Final = Position()
