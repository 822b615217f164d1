"""Two state stores under the same scripts, memory's and a durable one: what any script must hold to."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine, initialize
from support.state_stores import CANCELLED, DONE, REJECTED, SKIPPED, MovedTime, Seen, opening, seen

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number, Position
from troupe.dataplane.state.errors import Fenced
from troupe.dataplane.state.port import Claimed, Placed, StateStore
from troupe.dataplane.state.session import Backlog, Entry, Loaded, Owner
from troupe.v1 import promise_pb2

KEYS = [SessionKey("default", "default", "clerk", name) for name in ("ada", "bob")]
IDS = ("v", "w", "x", "y", "z")
RESTARTED = IDS[:2]
ALL_IDS = (*IDS, *(f"{name}{id_}" for name in "12" for id_ in RESTARTED))
"""With those that go on for others."""
REMINDED = b"reminded"
"""Envelope of reminders."""
OPEN = promise_pb2.PROMISE_STATE_OPEN


class Asker(Enum):
    """Who sends a script."""

    OWNER = auto()
    MARKED = auto()
    """The owner under whose mark the message stands, whoever that is now."""
    BEFORE = auto()
    """The owner before."""
    TWIN = auto()
    """Another process under the owner's epoch."""
    NEXT = auto()
    """The next owner: it takes the shard with the script."""


@dataclass
class Past:
    """What has been seen of one session, until it was forgotten."""

    settled: set[Number] = field(default_factory=set)
    took_effect: set[Number] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    sizes: dict[Number, int] = field(default_factory=dict)
    """Of the envelopes that wait."""
    scheduled: dict[Number, int] = field(default_factory=dict)
    """Of those that were put on the schedule, once."""

    def size_of(self, number: Number) -> int:
        """Of the envelope that a number had on the schedule."""
        return len(REMINDED) if number.stream.startswith("reminder/") else self.scheduled.get(number, 0)


class SideBySide(RuleBasedStateMachine):
    """Every script is run on both stores, and then again on both: its repetition must change nothing more."""

    durable: str
    """Name of the store beside memory's."""
    time: MovedTime
    """The clock of both, which nothing but the machine moves."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.directory = Path(self.stack.enter_context(TemporaryDirectory()))
        self.fence = Owner(0, 1, "worker-1")
        self.now = self.time.now()
        self.started = self.now
        self.moments = 0
        self.claimed = Claimed()
        self.past = {key: Past() for key in KEYS}

    @initialize()
    def open(self) -> None:
        async def opened() -> tuple[StateStore, StateStore]:
            self.file = AsyncExitStack()
            return (
                await self.stack.enter_async_context(opening("memory", self.directory, clock=self.time)),
                await self.file.enter_async_context(opening(self.durable, self.directory, clock=self.time)),
            )

        self.stores = self.runner.run(opened())
        for store in self.stores:
            self.runner.run(_awaited(store.claim(self.fence)))
        self.sessions = self.see()

    def teardown(self) -> None:
        if hasattr(self, "file"):
            self.runner.run(self.file.aclose())
        self.runner.run(self.stack.aclose())
        self.runner.close()

    def check_step(self, before: Seen, after: Seen, forgets: bool) -> None:
        for stream, position in before.loaded.positions.items():
            if not forgets or stream in after.loaded.positions:
                assert after.loaded.positions[stream].settled >= position.settled
        for id_, kept in before.records.items():
            if kept is not None and kept.fate in (DONE, CANCELLED, SKIPPED, REJECTED):
                assert after.records[id_] == kept or (forgets and after.records[id_] is None)
        settled = {promise.id: promise for promise in before.promises if promise.state != OPEN}
        for promise in after.promises:
            other = settled.get(promise.id, promise)
            stands = replace(promise, tokens=other.tokens, message_id=other.message_id)
            assert stands == other, "a promise was settled twice"
        kept_ids = {promise.id for promise in after.promises}
        assert forgets or {promise.id for promise in before.promises} <= kept_ids

    def run_turn(
        self,
        script: Callable[[StateStore], Awaitable[Any]],
        turn: tuple[Owner, SessionKey, Number, int],
        body: bytes = b"",
    ) -> Any:
        """Run what a turn writes, in the attempt with which so many have begun."""
        owner, key, number, attempts = turn
        before, settled = self.sessions, number in self.past[key].settled
        waits = self.standing(key, number)
        marked = waits is not None and waits.running == owner.mark
        ended = waits is not None and (
            waits.attempts > attempts or (waits.attempts == attempts and waits.starts == 0 and waits.running is None)
        )
        answer = self.run(script, owner, marked=marked, body=body)
        if settled or ended:
            # A new owner sees no more what begins under the mark of the one before.
            stood, stands = ([replace(seen, begun={}) for seen in all_.values()] for all_ in (before, self.sessions))
            assert stands == stood, "a late write changed something"
        return answer

    def run(
        self,
        script: Callable[[StateStore], Awaitable[Any]],
        owner: Owner | None = None,
        *,
        same_answer: bool = True,
        forgets: bool = False,
        marked: bool = False,
        body: bytes = b"",
    ) -> Any:
        """`marked`: it is let through though its sender is not the owner. `body`: of what it may place."""
        before = self.sessions
        answer = self.once(script)
        owner = owner or self.fence
        foreign = owner.epoch < self.fence.epoch or (owner.epoch == self.fence.epoch and owner != self.fence)
        assert (foreign and not marked) == (answer[0] is Fenced if isinstance(answer, tuple) else False)
        if isinstance(answer, tuple):
            assert self.see() == before, "a refused script changed something"
        elif not foreign:
            self.fence = owner
        self.sessions = after = self.see()
        for key in KEYS:
            self.check_step(before[key], after[key], forgets)
            waiting, sizes = [entry.number for entry in after[key].loaded.inbox], self.past[key].sizes
            comes = {number: len(body) or self.past[key].size_of(number) for number in waiting}
            self.past[key].sizes = {number: sizes.get(number, comes[number]) for number in waiting}
        again = self.once(script)
        assert not same_answer or foreign or isinstance(answer, Placed) or again == answer
        assert self.see() == after, "repeating a script changed something"
        return answer

    def once(self, script: Callable[[StateStore], Awaitable[Any]]) -> Any:
        """The answer of both; of a refusal, its class and what it says."""
        answers = []
        for store in self.stores:
            try:
                answers.append(self.runner.run(_awaited(script(store))))
            except Exception as refusal:
                answers.append((type(refusal), str(refusal)))
        assert answers[0] == answers[1]
        return answers[0]

    def see(self) -> dict[SessionKey, Seen]:
        async def all_of(store: StateStore) -> tuple[dict[SessionKey, Seen], Backlog, Claimed]:
            each = await asyncio.gather(*(seen(store, key, ids=ALL_IDS, owner=self.fence) for key in KEYS))
            claimed = await store.claim(self.fence)
            return (
                dict(zip(KEYS, each, strict=True)),
                await store.backlog(0),
                Claimed(_ordered(claimed.due), _ordered(claimed.verbs)),
            )

        async def of_both() -> list[tuple[dict[SessionKey, Seen], Backlog, Claimed]]:
            return [await all_of(store) for store in self.stores]

        memory, durable = self.runner.run(of_both())
        assert memory == durable
        sessions, shard, self.claimed = memory
        counted = [session.backlog for session in sessions.values()]
        assert shard == Backlog(sum(each.messages for each in counted), sum(each.bytes for each in counted))
        return sessions

    def owner(self, asker: Asker, entry: Entry | None = None) -> Owner:
        epoch = self.fence.epoch
        match asker:
            case Asker.MARKED if entry is not None and entry.running is not None:
                return Owner(0, entry.running.epoch, entry.running.instance)
            case Asker.OWNER | Asker.MARKED:
                return self.fence
            case Asker.BEFORE:
                return Owner(0, epoch - 1, f"worker-{epoch - 1}")
            case Asker.TWIN:
                return Owner(0, epoch, "twin")
            case Asker.NEXT:
                return Owner(0, epoch + 1, f"worker-{epoch + 1}")

    def next(self, key: SessionKey, stream: str, ahead: int) -> Number:
        """The number that comes next in the stream, or so many further."""
        return Number(stream, max(1, self.loaded(key).positions.get(stream, Position()).settled + 1 + ahead))

    def loaded(self, key: SessionKey) -> Loaded:
        return self.sessions[key].loaded

    def standing(self, key: SessionKey, number: Number) -> Entry | None:
        return next((entry for entry in self.loaded(key).inbox if entry.number == number), None)

    def waiting(self, key: SessionKey, index: int) -> Entry:
        """Something that waits, most of the time."""
        inbox = self.loaded(key).inbox
        id_ = IDS[index % len(IDS)]
        return inbox[index] if index < len(inbox) else Entry(self.next(key, "a", 0), id_, id_.encode(), self.now)


def _ordered(keys: Iterable[SessionKey]) -> list[SessionKey]:
    return sorted(keys, key=lambda key: key.path)


async def _awaited(script: Awaitable[Any]) -> Any:
    return await script
