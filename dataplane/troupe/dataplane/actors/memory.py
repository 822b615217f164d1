"""What an owner knows of one session: the store's answer when it was loaded, and what has changed since. Pure."""

from collections.abc import Iterable, Sequence, Set
from dataclasses import replace

from troupe.broker.order import Number, Place
from troupe.dataplane.actors.inbox import Choice, Inbox
from troupe.dataplane.state.port import RECENT, Entry, Loaded, Outgoing, Sent, begun


class SessionMemory:
    """Kept in step with the store by the actor, which alone changes the session while it owns the shard."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.outbox: dict[Number, Outgoing] = {}
        """What was sent and is not struck, in the order in which it was sent."""
        self._sent: dict[str, Sent] = {}
        self.loaded = Loaded(sent=self._sent)
        """Version, state, history and streams to others, up to date; the rest of it is beside it."""
        self._recent: dict[str, None] = {}
        self._recent_is_all = True
        self._cancelled: set[str] = set()
        self._journaled: Set[str] = frozenset()

    def take_up(self, loaded: Loaded) -> None:
        """The store's answer takes the place of all that was known, but for cancels that are not obeyed yet."""
        self.inbox = Inbox(loaded.inbox, loaded.positions)
        self.outbox = {message.number: message for message in loaded.outbox}
        self._sent = dict(loaded.sent)
        self.loaded = Loaded(loaded.version, loaded.state, loaded.history, sent=self._sent)
        self._recent = dict.fromkeys([*loaded.recent, *self._cancelled])
        self._recent_is_all = len(loaded.recent) < RECENT
        self._cancelled.update(loaded.cancelled)
        self._journaled = loaded.journaled

    def choose(self, now: float) -> Choice:
        """Which waiting message may start."""
        return self.inbox.choose(now)

    def place(self, number: Number) -> Place:
        return self.inbox.place(number)

    def holds(self, number: Number) -> bool:
        """It waits here already. A copy that is neither started nor placed is the broker's to bring again."""
        return number in self.inbox

    def waiting(self, message_id: str) -> Entry | None:
        """The message as it waits, the foremost where copies do."""
        return next(iter(self.inbox.of(message_id)), None)

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
        for entry in self.inbox.of(message_id):
            self.inbox.replace(_cancelled(entry))

    def wait(self, entry: Entry, *, recorded: bool = False) -> None:
        """It stands at the inbox's end; `recorded`: its message may have been settled by that."""
        self.inbox.append(entry)
        if recorded:
            self._recent[entry.message_id] = None

    def begin(self, entry: Entry) -> None:
        """A start of it was counted."""
        if (waits := self.inbox.get(entry.number)) is not None:
            self.inbox.replace(begun(waits))

    def put_first(self, entry: Entry) -> None:
        """It stands at the inbox's head: it runs on, was taken over, or is tried again."""
        self.inbox.put_first(entry)

    def settle(self, number: Number) -> None:
        self.inbox.settle(number)

    def record(self, message_id: str) -> None:
        """The message has a record; what waits under its id is a copy."""
        self._cancelled.discard(message_id)
        self._recent[message_id] = None
        if len(self._recent) > RECENT:
            self._recent_is_all = False
            del self._recent[next(iter(self._recent))]
        for entry in self.inbox.of(message_id):
            self.inbox.replace(replace(entry, skip=True))

    def turn_over(
        self, version: int, state: bytes | None, delta: bytes | None, sent: Sequence[Outgoing], now: float
    ) -> None:
        """What a turn changed, None where it did not, and what it sent."""
        before = self.loaded
        self.loaded = replace(
            before,
            version=version,
            state=before.state if state is None else state,
            history=before.history if delta is None else [*before.history, delta],
        )
        for message in sent:
            self.outbox[message.number] = message
            self._sent[message.target] = Sent(message.number, now)

    def strike(self, numbers: Iterable[Number]) -> None:
        """The broker has them."""
        for number in numbers:
            self.outbox.pop(number, None)

    def pass_over(self, number: Number, count: int) -> None:
        """The store gave up `number`, which came next, and those after it, `count` in all."""
        self.inbox.pass_over(number, count)


def _cancelled(entry: Entry) -> Entry:
    """What has begun is settled by a turn, soon; what has not, the store has settled where it waits."""
    if entry.starts or entry.attempts or entry.running:
        return replace(entry, not_before=0.0)
    return replace(entry, skip=True)
