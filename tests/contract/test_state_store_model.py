"""Random scripts on memory and SQLite side by side: the same answers, the same sessions, and what must never happen."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.state_stores import CANCELLED, DEAD, DONE, EXPIRED, NOW, SKIPPED, STORES, Seen, record, seen

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number, Place, Position
from troupe.dataplane.state.port import Entry, Fenced, Owner, Placed, StateStore, TurnCommit, begun
from troupe.v1.turn_pb2 import Fate

KEYS = [SessionKey("default", "default", "clerk", name) for name in ("ada", "bob")]
IDS = ("x", "y", "z")
DAY = 24 * 3600.0

keys = st.sampled_from(KEYS)
ids = st.sampled_from(IDS)
# Few of everything, so that they meet; the first of each most of the time, so that most scripts get somewhere.
owners = st.sampled_from([None, None, None, None, None, (1, "p"), (2, "q"), (3, "p")])
numbers = st.builds(Number, st.sampled_from("ab"), st.integers(1, 4))
fates = st.sampled_from([DONE, DONE, DONE, CANCELLED, DEAD, EXPIRED, SKIPPED])
steps = st.dictionaries(st.sampled_from("12"), st.sampled_from([b"a", b"b"]), max_size=2)
indexes = st.integers(0, 3)


@dataclass
class Past:
    """What has been seen of one session, until it was forgotten."""

    settled: set[Number] = field(default_factory=set)
    took_effect: set[Number] = field(default_factory=set)
    done: set[str] = field(default_factory=set)


class StoresSideBySide(RuleBasedStateMachine):
    """Every script is run on both stores, and then again on both: its repetition must change nothing more."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.directory = Path(self.stack.enter_context(TemporaryDirectory()))
        self.fence = (1, "p")
        self.now = NOW
        self.past = {key: Past() for key in KEYS}

    @initialize()
    def open(self) -> None:
        async def opened() -> tuple[StateStore, StateStore]:
            self.file = AsyncExitStack()
            return (
                await self.stack.enter_async_context(STORES["memory"](self.directory)),
                await self.file.enter_async_context(STORES["sqlite"](self.directory)),
            )

        self.memory, self.sqlite = self.runner.run(opened())
        self.sessions = {key: self.see(key) for key in KEYS}

    def teardown(self) -> None:
        if hasattr(self, "file"):
            self.runner.run(self.file.aclose())
        self.runner.run(self.stack.aclose())
        self.runner.close()

    # --- scripts

    @rule(owner=owners)
    def claim(self, owner: tuple[int, str] | None) -> None:
        self.run(lambda store: _sorted(store.claim(self.owner(owner))), owner)

    @rule(owner=owners, key=keys, number=numbers, id_=ids, how=st.sampled_from(["", "", "", "skip", "running"]))
    def put(self, owner: tuple[int, str] | None, key: SessionKey, number: Number, id_: str, how: str) -> None:
        entry = Entry(number, id_, id_.encode(), self.now, skip=how == "skip", running=how == "running")
        body = f"{number} {id_}".encode()
        answer = self.run(lambda store: store.put(self.owner(owner), key, entry, body), owner)
        if isinstance(answer, Placed):
            assert (answer is Placed.SETTLED) == (number in self.past[key].settled)

    @rule(owner=owners, key=keys, index=indexes, stale=st.booleans())
    def begin(self, owner: tuple[int, str] | None, key: SessionKey, index: int, stale: bool) -> None:
        entry = self.waiting(key, index)
        entry = replace(entry, attempts=0, starts=0) if stale else entry
        self.run(lambda store: store.begin(self.owner(owner), key, entry), owner)

    @rule(owner=owners, key=keys, id_=ids, steps=steps, starts=st.booleans())
    def journal(
        self, owner: tuple[int, str] | None, key: SessionKey, id_: str, steps: dict[str, bytes], starts: bool
    ) -> None:
        self.run(lambda store: store.journal(self.owner(owner), key, id_, steps, starts=starts), owner)

    @rule(owner=owners, key=keys, index=indexes, failed=st.integers(0, 1), late=st.booleans())
    def retry(self, owner: tuple[int, str] | None, key: SessionKey, index: int, failed: int, late: bool) -> None:
        entry = self.waiting(key, index)
        entry = replace(
            entry if entry.starts else begun(entry),
            skip=False,
            starts=0,
            failures=entry.failures + failed,
            not_before=self.now + 1,
        )
        entry = replace(entry, attempts=1) if late else entry
        self.run(lambda store: store.retry(self.owner(owner), key, entry, b"retried"), owner)

    @rule(
        owner=owners,
        key=keys,
        index=indexes,
        number=st.one_of(st.none(), numbers),
        id_=st.one_of(st.none(), st.none(), ids),
        fate=st.one_of(fates, fates, fates, st.none()),
        ahead=st.sampled_from([0, 0, 0, 0, 1, -1]),
        changes=st.booleans(),
    )
    def commit(
        self,
        owner: tuple[int, str] | None,
        key: SessionKey,
        index: int,
        number: Number | None,
        id_: str | None,
        fate: Fate.ValueType | None,
        ahead: int,
        changes: bool,
    ) -> None:
        before = self.sessions[key].loaded
        entry = self.waiting(key, index)
        number, id_ = number or entry.number, id_ or entry.message_id
        commit = TurnCommit(
            key=key,
            number=number,
            message_id=id_,
            record=None if fate is None else record(fate, id_, status=f"{number}".encode()),
            version=before.version + ahead,
            state=f"{number} {id_}".encode() if changes else None,
            history=f"{number} {id_}".encode() if changes else None,
            usage=b"used" if changes else None,
            now=self.now,
        )
        answer = self.run(lambda store: store.commit(self.owner(owner), commit), owner)
        after, past = self.sessions[key].loaded, self.past[key]
        if after.version != before.version:
            assert answer == after.version == before.version + 1
            assert after.history == [*before.history, *([commit.history] if commit.history is not None else [])]
            assert number not in past.took_effect
            assert id_ not in past.done, "one message had two effects"
            past.took_effect.add(number)
            past.done.add(id_)

    @rule(owner=owners, key=keys, number=numbers)
    def pass_over(self, owner: tuple[int, str] | None, key: SessionKey, number: Number) -> None:
        self.run(lambda store: store.pass_over(self.owner(owner), key, number, self.now), owner, same_answer=False)

    @rule(key=keys, id_=ids, verb=st.sampled_from(["v", "w"]))
    def cancel(self, key: SessionKey, id_: str, verb: str) -> None:
        cancelled = record(CANCELLED, status=f"by {verb}".encode())
        self.run(lambda store: store.cancel(key, id_, verb, cancelled, self.now))

    @rule(owner=owners, key=keys, index=indexes)
    def delete(self, owner: tuple[int, str] | None, key: SessionKey, index: int) -> None:
        waiting = self.sessions[key].loaded.inbox[:index]
        cancelled = {entry.message_id: record(CANCELLED, entry.message_id) for entry in waiting if not entry.skip}
        self.run(lambda store: store.delete(self.owner(owner), key, cancelled, self.now), owner)

    @rule(later=st.sampled_from([1.0, DAY / 3, 2 * DAY, 40 * DAY]))
    def forget(self, later: float) -> None:
        self.now += later
        self.run(lambda store: store.forget(self.now, self.now - 30 * DAY), forgets=True)
        for key, past in self.past.items():
            # A number, an id are new again when nothing of them is kept.
            session = self.sessions[key]
            past.settled = {number for number in past.settled if number.stream in session.loaded.positions}
            past.took_effect &= past.settled
            past.done = {id_ for id_ in past.done if session.records[id_] is not None}

    @rule()
    def open_again(self) -> None:
        async def opened() -> StateStore:
            await self.file.aclose()
            return await self.file.enter_async_context(STORES["sqlite"](self.directory))

        self.sqlite = self.runner.run(opened())
        assert {key: self.see(key) for key in KEYS} == self.sessions

    # --- what must never happen

    @invariant()
    def what_is_settled_stays_settled(self) -> None:
        for key, session in getattr(self, "sessions", {}).items():
            past = self.past[key]
            now = {number for number in _ALL if _place(session, number) is Place.SETTLED}
            assert past.settled <= now
            past.settled = now

    @invariant()
    def the_inbox_holds_nothing_settled(self) -> None:
        for session in getattr(self, "sessions", {}).values():
            waiting = [entry.number for entry in session.loaded.inbox]
            assert len(set(waiting)) == len(waiting)
            assert all(_place(session, number) is not Place.SETTLED for number in waiting)

    @invariant()
    def what_waits_live_was_not_settled_for_good(self) -> None:
        for session in getattr(self, "sessions", {}).values():
            for entry in session.loaded.inbox:
                kept = session.records[entry.message_id]
                assert entry.skip or entry.running or entry.attempts or kept is None

    @invariant()
    def what_was_cancelled_is_cancelled_or_not_settled(self) -> None:
        for session in getattr(self, "sessions", {}).values():
            assert not set(session.loaded.cancelled) & {id_ for id_, kept in session.records.items() if kept}

    def check_step(self, before: Seen, after: Seen, forgets: bool) -> None:
        for stream, position in before.loaded.positions.items():
            if not forgets or stream in after.loaded.positions:
                assert after.loaded.positions[stream].settled >= position.settled
        for id_, kept in before.records.items():
            if kept is not None and kept.fate in (DONE, CANCELLED, SKIPPED):
                assert after.records[id_] == kept or (forgets and after.records[id_] is None)

    # --- running both

    def run(
        self,
        script: Callable[[StateStore], Awaitable[Any]],
        owner: tuple[int, str] | None = None,
        *,
        same_answer: bool = True,
        forgets: bool = False,
    ) -> Any:
        before = self.sessions
        answer = self.once(script)
        asked = owner or self.fence
        refused = asked[0] < self.fence[0] or (asked[0] == self.fence[0] and asked != self.fence)
        assert refused == (answer[0] is Fenced if isinstance(answer, tuple) else False)
        if isinstance(answer, tuple):
            after = {key: self.see(key) for key in KEYS}
            assert after == before, "a refused script changed something"
        else:
            self.fence = max(self.fence, asked, key=lambda fence: fence[0])
            after = {key: self.see(key) for key in KEYS}
        self.sessions = after
        for key in KEYS:
            self.check_step(before[key], after[key], forgets)
        again = self.once(script)
        assert not same_answer or isinstance(answer, Placed) or again == answer
        assert {key: self.see(key) for key in KEYS} == after, "repeating a script changed something"
        return answer

    def once(self, script: Callable[[StateStore], Awaitable[Any]]) -> Any:
        """The answer of both; of a refusal, its class and what it says."""
        answers = []
        for store in (self.memory, self.sqlite):
            try:
                answers.append(self.runner.run(_awaited(script(store))))
            except Exception as refusal:
                answers.append((type(refusal), str(refusal)))
        assert answers[0] == answers[1]
        return answers[0]

    def see(self, key: SessionKey) -> Seen:
        owner = self.owner(None)
        memory, file = (self.runner.run(seen(store, key, ids=IDS, owner=owner)) for store in (self.memory, self.sqlite))
        assert memory == file
        return memory

    def owner(self, other: tuple[int, str] | None) -> Owner:
        return Owner(0, *(other or self.fence))

    def waiting(self, key: SessionKey, index: int) -> Entry:
        """Something that waits, most of the time."""
        inbox = self.sessions[key].loaded.inbox
        number = Number("a", self.sessions[key].loaded.positions.get("a", Position()).settled + 1)
        return inbox[index] if index < len(inbox) else Entry(number, IDS[index % 3], b"", self.now)


_ALL = [Number(stream, sequence) for stream in "ab" for sequence in range(1, 30)]


def _place(session: Seen, number: Number) -> Place:
    return session.loaded.positions.get(number.stream, Position()).place(number.sequence)


async def _sorted(keys: Awaitable[Any]) -> list[str]:
    return sorted(key.path for key in await keys)


async def _awaited(script: Awaitable[Any]) -> Any:
    return await script


StoresSideBySide.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStoresSideBySide = pytest.mark.timeout(300)(StoresSideBySide.TestCase)
