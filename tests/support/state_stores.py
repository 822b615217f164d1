"""State stores for tests: every backend, the values that scripts take, and all that can be seen of a session."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from support import redis_server
from support.fake_clock import FakeClock
from support.moved_clock import MovedClock

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.chassis import sqlite_file
from troupe.dataplane.state.connect import connected
from troupe.dataplane.state.control import Control, Promise, Reminder, Settlement
from troupe.dataplane.state.errors import Marked
from troupe.dataplane.state.memory import MemoryStateStore
from troupe.dataplane.state.port import Begun, StateStore, TurnCommit
from troupe.dataplane.state.session import (
    Attempt,
    Backlog,
    Entry,
    Loaded,
    Outgoing,
    Owner,
    Record,
    SessionSummary,
    begun,
)
from troupe.dataplane.state.sqlite import SqliteStateStore
from troupe.dataplane.state.sqlite_tables import SCHEMA
from troupe.v1 import agent_pb2, promise_pb2, turn_pb2
from troupe.v1.agent_pb2 import Verb
from troupe.v1.turn_pb2 import Fate

KEY = SessionKey("default", "default", "clerk", "ada")
OWNER = Owner(shard=0, epoch=5, instance="worker-1.1")
MARK = OWNER.mark
STRANGER = Owner(shard=0, epoch=3, instance="worker-3.1")
"""Who owned the shard before."""
STRANGE = STRANGER.mark
NOW = 1_700_000_000.0

DONE, DEAD, EXPIRED = turn_pb2.FATE_DONE, turn_pb2.FATE_DEAD, turn_pb2.FATE_EXPIRED
CANCELLED, SKIPPED, REJECTED = turn_pb2.FATE_CANCELLED, turn_pb2.FATE_SKIPPED, turn_pb2.FATE_REJECTED

SHARDS = 1
SOON = 0.2
"""Seconds that tests of what is due wait in earnest where the store has a clock of its own."""

Opening = Callable[[Path, FakeClock | None], AbstractAsyncContextManager[StateStore]]


class StoreTime(Protocol):
    """The clock by which a store judges what is due and has expired."""

    def now(self) -> float: ...

    async def pass_(self, seconds: float) -> None:
        """Return when it is so much later."""
        ...


class MovedTime(FakeClock):
    """Stands still but for `pass_`. Of stores that take a clock."""

    async def pass_(self, seconds: float) -> None:
        self.advance(seconds)


class ServerTime(MovedTime):
    """The same of a Redis of the test's own, which was started with this clock."""

    def __init__(self, server: redis_server.RedisServer, clock: MovedClock) -> None:
        super().__init__(NOW)
        self.server, self._clock = server, clock
        clock.stop_at(NOW)

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self._clock.stop_at(self.now())


class RealTime:
    """Of a store that has a clock of its own: keep waits short."""

    def now(self) -> float:
        return time.time()

    async def pass_(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def time_of(backend: str) -> StoreTime:
    return RealTime() if backend == "redis" else MovedTime(NOW)


@asynccontextmanager
async def _memory(_: Path, clock: FakeClock | None) -> AsyncIterator[StateStore]:
    yield MemoryStateStore(clock)


def _sqlite(directory: Path, clock: FakeClock | None) -> AbstractAsyncContextManager[StateStore]:
    file = directory / "state.db"
    if not file.exists():
        file.write_bytes(_empty())
    return SqliteStateStore.opened(file, clock)


def _redis(directory: Path, clock: FakeClock | None) -> AbstractAsyncContextManager[StateStore]:
    """A directory of Redis' is a prefix."""
    server = clock.server if isinstance(clock, ServerTime) else redis_server.shared()
    return connected(server.url(prefix=str(directory)))


@asynccontextmanager
async def opening(
    backend: str, directory: Path, shards: int = SHARDS, *, clock: StoreTime | None = None
) -> AsyncIterator[StateStore]:
    """A store of a fleet with so many shards, made in the directory where there is none. It goes by `clock` where it
    takes one, and by the machine's otherwise."""
    async with STORES[backend](directory, clock if isinstance(clock, MovedTime) else None) as store:
        await store.declare(shards)
        yield store


@cache
def _empty() -> bytes:
    """A store without anything in it: making the tables takes longer than any test on them."""
    with TemporaryDirectory() as directory:
        file = Path(directory, "state.db")
        sqlite_file.prepare(file, SCHEMA)
        return file.read_bytes()


STORES: Mapping[str, Opening] = {"memory": _memory, "sqlite": _sqlite, "redis": _redis}
"""What opens each backend in a directory."""
DURABLE = [name for name in STORES if name != "memory"]
"""Those that have everything when the directory is opened again."""


def number(sequence: int, stream: str = "gateway") -> Number:
    return Number(stream, sequence)


def entry(sequence: int, message_id: str = "", *, stream: str = "gateway") -> Entry:
    """A message that comes in: its id is `m` and its sequence unless given, its digest tells ids apart."""
    name = message_id or f"m{sequence}"
    return Entry(number(sequence, stream), name, digest=name.encode(), placed=NOW)


def attempt(entry: Entry, index: int = 0) -> Attempt:
    """An attempt at the message; by default the first."""
    return Attempt(entry.number, entry.message_id, index, entry.digest)


def envelope(entry: Entry) -> bytes:
    return f"envelope of {entry.number}".encode()


def outgoing(sequence: int, target: str = "default/default/clerk/bob", *, stream: str = "to bob") -> Outgoing:
    """A message that a turn sends."""
    return Outgoing(target, number(sequence, stream), f"{sequence} to {target}".encode())


def record(fate: Fate.ValueType = DONE, message_id: str = "", status: bytes = b"") -> Record:
    return Record(fate, status or Fate.Name(fate).encode(), digest=message_id.encode())


def verb(kind: Verb.ValueType, message_id: str = "m1", verb_id: str = "v1", *, lifts: str = "") -> Control:
    """Its status tells it apart."""
    return Control(kind, verb_id, message_id, lifts=lifts, status=f"by {verb_id}".encode())


def cancel(message_id: str = "m1", verb_id: str = "v1", status: bytes = b"FATE_CANCELLED") -> Control:
    return replace(verb(agent_pb2.VERB_CANCEL, message_id, verb_id), status=status)


def pause(message_id: str = "m1", verb_id: str = "pause") -> Control:
    return verb(agent_pb2.VERB_PAUSE, message_id, verb_id)


def resume(message_id: str = "m1", verb_id: str = "resume", *, lifts: str = "") -> Control:
    return verb(agent_pb2.VERB_RESUME, message_id, verb_id, lifts=lifts)


def promise(name: str = "approval", message_id: str = "m1", *, expires: float = 0.0) -> Promise:
    token = f"token of {message_id}/{name}".encode()
    return Promise(f"{message_id}/{name}", name, message_id, NOW, expires, (token,), ("boss",), b"{}")


def settlement(promise: Promise, id_: str = "s1", value: bytes = b"yes") -> Settlement:
    return Settlement(promise.id, id_, promise_pb2.PROMISE_STATE_RESOLVED, value, "boss")


def reminder(due: float, name: str = "tea", *, every: float = 0.0, id_: str = "1") -> Reminder:
    return Reminder(name, f"reminder/{name}/{id_}", due, every, b"tea", f"envelope of {name}".encode())


def commit(
    entry: Entry, record: Record | None, version: int = 0, *, key: SessionKey = KEY, now: float = NOW
) -> TurnCommit:
    """A turn's commit that changes everything that a turn can change."""
    after = f"{key.session}.{version + 1}"
    return TurnCommit(
        key=key,
        number=entry.number,
        message_id=entry.message_id,
        record=record,
        version=version,
        state=f"state {after}".encode(),
        history=f"delta {after}".encode(),
        usage=f"usage {after}".encode(),
        now=now,
    )


@dataclass(frozen=True)
class Seen:
    """All that can be seen of a session without changing it."""

    loaded: Loaded
    summary: SessionSummary | None
    waiting: Mapping[str, Entry | None]
    records: Mapping[str, Record | None]
    begun: Mapping[Number, Begun | None]
    """What each waiting message would begin with; None under another owner's mark."""
    backlog: Backlog
    messages: Sequence[tuple[Entry, Fate.ValueType]]
    promises: Sequence[Promise]
    history: Sequence[tuple[int, bytes]]


async def seen(store: StateStore, key: SessionKey = KEY, *, ids: tuple[str, ...] = (), owner: Owner = OWNER) -> Seen:
    """Look at a session as its owner. `ids` are looked up besides those that the session itself names."""
    loaded = await store.load(key)
    named = sorted({*ids, *loaded.recent, *loaded.verbs.cancelled, *(entry.message_id for entry in loaded.inbox)})
    # Asked at once: a store answers what it is asked together in one way there and back.
    (summary, backlog, messages, promises, history), (waiting, records, begun) = await asyncio.gather(
        asyncio.gather(
            store.summary(key),
            store.session_backlog(key),
            store.messages(0, key.path, None, 1_000),
            store.promises(key.path, None, 1_000, settled=True),
            store.history(key, None, 1_000),
        ),
        asyncio.gather(
            asyncio.gather(*(store.waiting(key, id_) for id_ in named)),
            asyncio.gather(*(store.record(key, id_) for id_ in named)),
            # A start that was counted already counts nothing, and shows envelope and journal.
            asyncio.gather(*(begin_again(store, owner, key, entry) for entry in loaded.inbox)),
        ),
    )
    return Seen(
        # What has no order of its own is put into one.
        replace(loaded, recent=sorted(loaded.recent)),
        summary,
        dict(zip(named, waiting, strict=True)),
        dict(zip(named, records, strict=True)),
        dict(zip((entry.number for entry in loaded.inbox), begun, strict=True)),
        backlog,
        [(entry, fate) for other, entry, fate in messages if other == key],
        [made for _, other, made in promises if other == key],
        history,
    )


async def begin_again(store: StateStore, owner: Owner, key: SessionKey, entry: Entry) -> Begun | None:
    try:
        return await store.begin(owner, key, replace(entry, attempts=-1))
    except Marked:
        return None


async def place(store: StateStore, *entries: Entry) -> None:
    for placing in entries:
        await store.put(OWNER, KEY, placing, envelope(placing))


async def inbox(store: StateStore) -> Sequence[Entry]:
    return (await store.load(KEY)).inbox


async def fail(store: StateStore, failed: Entry, *, not_before: float = NOW + 1) -> Entry:
    """One attempt of a waiting message, to its failure."""
    await store.begin(OWNER, KEY, failed)
    again = replace(begun(failed), starts=0, failures=failed.failures + 1, not_before=not_before, first_failed=NOW)
    await store.retry(OWNER, KEY, again, envelope(failed))
    return again


async def remind(store: StateStore, *reminders: Reminder, sequence: int = 1, forget: tuple[str, ...] = ()) -> None:
    """A turn that sets reminders."""
    version = (await store.load(KEY)).version
    turn = commit(entry(sequence, f"setter {sequence}", stream="setter"), record(), version)
    await store.commit(OWNER, replace(turn, remind=reminders, forget_reminders=forget))


async def given_session(store: StateStore) -> None:
    await store.put(STRANGER, KEY, replace(entry(4), running=STRANGE, attempts=1), envelope(entry(4)))
    await store.claim(OWNER)
    await store.commit(OWNER, replace(commit(entry(1), record()), outbox=[outgoing(1)]))
    await place(store, entry(2), entry(3))
    await store.begin(OWNER, KEY, entry(2))
    await store.journal(OWNER, KEY, attempt(entry(2)), {"a": b"1"}, starts=True)


async def journal_of(store: StateStore, message_id: str) -> dict[str, bytes]:
    """What a copy of the message would begin with."""
    probe = entry(1, message_id, stream="probe")
    await store.put(OWNER, KEY, probe, b"")
    return dict((await store.begin(OWNER, KEY, replace(probe, attempts=-1))).journal)
