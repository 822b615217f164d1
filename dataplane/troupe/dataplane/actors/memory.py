"""What an owner knows of one session: the store's answer when it was loaded, and what has changed since. Pure."""

from collections.abc import Set
from dataclasses import replace

from troupe.broker.order import Number, Place, Position
from troupe.dataplane.actors.inbox import Choice, choose
from troupe.dataplane.state.port import RECENT, Entry, Loaded, begun


class SessionMemory:
    """Kept in step with the store by the actor, which alone changes the session while it owns the shard."""

    def __init__(self) -> None:
        self.loaded = Loaded()
        """Version, state and history, up to date; the rest of it is below."""
        self.inbox: list[Entry] = []
        self._positions: dict[str, Position] = {}
        self._recent: dict[str, None] = {}
        self._recent_is_all = True
        self._cancelled: set[str] = set()
        self._journaled: Set[str] = frozenset()

    def take_up(self, loaded: Loaded) -> None:
        """The store's answer takes the place of all that was known, but for cancels that are not obeyed yet."""
        self.loaded = replace(loaded, positions={}, inbox=(), recent=(), cancelled=(), journaled=frozenset())
        self.inbox = list(loaded.inbox)
        self._positions = dict(loaded.positions)
        self._recent = dict.fromkeys([*loaded.recent, *self._cancelled])
        self._recent_is_all = len(loaded.recent) < RECENT
        self._cancelled.update(loaded.cancelled)
        self._journaled = loaded.journaled

    def choose(self, now: float) -> Choice:
        """Which waiting message may start."""
        return choose(self.inbox, self._positions, now)

    def place(self, number: Number) -> Place:
        return self._positions.get(number.stream, Position()).place(number.sequence)

    def holds(self, number: Number) -> bool:
        """It waits here already. A copy that is neither started nor placed is the broker's to bring again."""
        return any(entry.number == number for entry in self.inbox)

    def waiting(self, message_id: str) -> Entry | None:
        """The message as it waits, the foremost where copies do."""
        return next((entry for entry in self.inbox if entry.message_id == message_id), None)

    def lacks(self, missing: Number) -> bool:
        """Whether this number comes next in its stream and does not wait here."""
        settled = self._positions.get(missing.stream, Position()).settled
        return settled + 1 == missing.sequence and not self.holds(missing)

    def may_have_record(self, message_id: str) -> bool:
        return not self._recent_is_all or message_id in self._recent

    def has_journal(self, message_id: str) -> bool:
        """An attempt before this session was loaded journaled steps: a copy must find them."""
        return message_id in self._journaled

    def is_cancelled(self, message_id: str) -> bool:
        """A CANCEL was recorded for it, and it was not settled since."""
        return message_id in self._cancelled

    def cancel(self, message_id: str) -> None:
        """A CANCEL was recorded: where the message waited the store may have settled it."""
        self._cancelled.add(message_id)
        self._recent[message_id] = None
        self.inbox = [_cancelled(entry) if entry.message_id == message_id else entry for entry in self.inbox]

    def wait(self, entry: Entry, *, recorded: bool = False) -> None:
        """It stands at the inbox's end; `recorded`: its message may have been settled by that."""
        self.inbox.append(entry)
        if recorded:
            self._recent[entry.message_id] = None

    def begin(self, entry: Entry) -> None:
        """A start of it was counted."""
        self.inbox = [begun(other) if other.number == entry.number else other for other in self.inbox]

    def put_first(self, entry: Entry) -> None:
        """It stands at the inbox's head: it runs on, or is tried again."""
        self.inbox = [entry, *(other for other in self.inbox if other.number != entry.number)]

    def settle(self, number: Number) -> None:
        position = self._positions.get(number.stream, Position())
        if position.place(number.sequence) is Place.NEXT:
            self._positions[number.stream] = position.settle(number.sequence)
        self.inbox = [entry for entry in self.inbox if entry.number != number]

    def record(self, message_id: str) -> None:
        """The message has a record; what waits under its id is a copy."""
        self._cancelled.discard(message_id)
        self._recent[message_id] = None
        if len(self._recent) > RECENT:
            self._recent_is_all = False
            del self._recent[next(iter(self._recent))]
        self.inbox = [replace(entry, skip=True) if entry.message_id == message_id else entry for entry in self.inbox]

    def turn_over(self, version: int, state: bytes | None, delta: bytes | None) -> None:
        """What a turn changed; None where it did not."""
        before = self.loaded
        self.loaded = replace(
            before,
            version=version,
            state=before.state if state is None else state,
            history=before.history if delta is None else [*before.history, delta],
        )

    def pass_over(self, missing: Number) -> None:
        """The store gave up the number, which came next."""
        self._positions[missing.stream] = self._positions.get(missing.stream, Position()).pass_over()


def _cancelled(entry: Entry) -> Entry:
    """What has begun is settled by a turn, soon; what has not, the store has settled where it waits."""
    if entry.starts or entry.attempts or entry.running:
        return replace(entry, not_before=0.0)
    return replace(entry, skip=True)
