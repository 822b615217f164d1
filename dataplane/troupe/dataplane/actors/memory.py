"""What an owner knows of one session: the store's answer when it was loaded, and what has changed since. Pure."""

import itertools
from collections.abc import Iterable, Sequence, Set
from dataclasses import replace

from troupe.broker.order import Number, Place
from troupe.dataplane.actors.inbox import Choice, Inbox, Suspended
from troupe.dataplane.actors.recorded import Recorded
from troupe.dataplane.state.schedule import is_occurrence
from troupe.dataplane.state.session import RECENT, Entry, Loaded, Outgoing, Sent, Verbs, begun


class SessionMemory:
    """Kept in step with the store by the actor, which alone changes the session while it owns the shard."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.outbox: dict[Number, Outgoing] = {}
        """What was sent and is not struck, in the order in which it was sent."""
        self._sent: dict[str, Sent] = {}
        self.loaded = Loaded(sent=self._sent)
        """Version, state, history and streams to others, up to date; the rest of it is beside it."""
        self._recorded = Recorded()
        self.verbs = Verbs()
        """What was recorded for messages of the session, as far as it was told."""
        self._journaled: Set[str] = frozenset()
        self._resting: Number | None = None

    def take_up(self, loaded: Loaded) -> None:
        """The store's answer takes the place of all that was known."""
        self.inbox = Inbox(loaded.inbox, loaded.positions)
        self.outbox = {message.number: message for message in loaded.outbox}
        self._sent = dict(loaded.sent)
        self.loaded = Loaded(loaded.version, loaded.state, loaded.snapshot, loaded.history, sent=self._sent)
        self._recorded = Recorded(loaded.recent, complete=len(loaded.recent) < RECENT)
        self.verbs = loaded.verbs
        self._journaled = loaded.journaled
        self._resting = None

    def choose(self, now: float) -> Choice:
        """Which waiting message may start."""
        return self.inbox.choose(now, self.verbs)

    def batch(self, first: Entry, most: int) -> list[Entry]:
        """What one turn may take beside `first`, which may start, so that it takes `most` messages in all: what could
        start next, one after the other, as far as nothing of it has ever begun and no verb is recorded for it."""
        if most < 2 or not self._is_fresh(first):
            return []
        return list(itertools.islice(itertools.takewhile(self._is_fresh, self.inbox.following(first)), most - 1))

    def place(self, number: Number) -> Place:
        return self.inbox.place(number)

    def holds(self, number: Number) -> bool:
        """It waits here already. A copy that is neither started nor placed is the broker's to bring again."""
        return number in self.inbox

    def waiting(self, message_id: str) -> Entry | None:
        """The message as it waits, the foremost where copies do."""
        return next(iter(self.inbox.of(message_id)), None)

    def may_have_record(self, message_id: str) -> bool:
        return self._recorded.may_hold(message_id)

    def is_paused(self, message_id: str) -> bool:
        return message_id in self.verbs.paused

    def has_journal(self, message_id: str) -> bool:
        """An attempt before this session was loaded journaled steps: a copy must find them."""
        return message_id in self._journaled

    def wait(self, entry: Entry, *, recorded: bool = False) -> None:
        """It stands at the inbox's end; `recorded`: its message may have been settled by that."""
        self.inbox.append(entry)
        if recorded:
            self._recorded.add(entry.message_id)

    def begin(self, entry: Entry) -> None:
        """A start of it was counted."""
        if (waits := self.inbox.get(entry.number)) is not None:
            self.inbox.replace(begun(waits))

    def put_first(self, entry: Entry) -> None:
        """It stands at the inbox's head: it runs on, was taken over, or is tried again."""
        self.inbox.put_first(entry)

    def rest(self, entry: Entry) -> None:
        """It stands at the inbox's head, suspended, and the store has laid the session to rest."""
        self.inbox.put_first(entry)
        self._resting = entry.number
        if not entry.awaits:
            self.verbs = replace(self.verbs, paused=self.verbs.paused | {entry.message_id})

    @property
    def at_rest(self) -> bool:
        """The store knows that nothing of the session starts before what comes next, which is suspended, does."""
        match self.choose(0.0) if self._resting else None:
            case Suspended(entry):
                return entry.number == self._resting
            case _:
                return False

    def settle(self, number: Number) -> None:
        self.inbox.settle(number)

    def record(self, message_id: str) -> None:
        """The message has a record; what waits under its id is a copy. A redriven one may have come since the store had
        that record, and be the next try: its start says so."""
        self._recorded.add(message_id)
        for entry in self.inbox.of(message_id):
            if not entry.redriven:
                self.inbox.replace(replace(entry, skip=True))

    def turn_over(
        self,
        version: int,
        state: bytes | None,
        delta: bytes | None,
        snapshot: bytes | None,
        sent: Sequence[Outgoing],
        now: float,
    ) -> None:
        """What a turn changed, None where it did not, and what it sent."""
        before = self.loaded
        history = before.history if delta is None else [*before.history, delta]
        self.loaded = Loaded(
            version,
            before.state if state is None else state,
            before.snapshot if snapshot is None else snapshot,
            history if snapshot is None else (),
            sent=self._sent,
        )
        for message in sent:
            self.outbox[message.number] = message
            self._sent[message.target] = Sent(message.number, now)

    def strike(self, numbers: Iterable[Number]) -> None:
        """The broker has them."""
        for number in numbers:
            self.outbox.pop(number, None)

    def _is_fresh(self, entry: Entry) -> bool:
        id_, verbs = entry.message_id, self.verbs
        began = entry.skip or entry.attempts or entry.starts or entry.awaits or entry.redriven or entry.not_before
        known = id_ in self._journaled or id_ in verbs.cancelled or id_ in verbs.paused
        return not (began or known or is_occurrence(entry.number))

    def pass_over(self, number: Number, count: int) -> None:
        """The store gave up `number`, which came next, and those after it, `count` in all."""
        self.inbox.pass_over(number, count)
