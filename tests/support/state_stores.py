"""State stores for tests: every backend, the values that scripts take, and all that can be seen of a session."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.chassis import sqlite_file
from troupe.dataplane.state.connect import connected
from troupe.dataplane.state.memory import MemoryStateStore
from troupe.dataplane.state.port import (
    Begun,
    Entry,
    Loaded,
    Owner,
    Record,
    SessionSummary,
    StateStore,
    TurnCommit,
)
from troupe.dataplane.state.sqlite_tables import SCHEMA
from troupe.v1 import turn_pb2
from troupe.v1.turn_pb2 import Fate

KEY = SessionKey("default", "default", "clerk", "ada")
OWNER = Owner(shard=0, epoch=5, instance="worker-1.1")
NOW = 1_700_000_000.0

DONE, DEAD, EXPIRED = turn_pb2.FATE_DONE, turn_pb2.FATE_DEAD, turn_pb2.FATE_EXPIRED
CANCELLED, SKIPPED = turn_pb2.FATE_CANCELLED, turn_pb2.FATE_SKIPPED

Opening = Callable[[Path], AbstractAsyncContextManager[StateStore]]


@asynccontextmanager
async def _memory(_: Path) -> AsyncIterator[StateStore]:
    yield MemoryStateStore()


def _sqlite(directory: Path) -> AbstractAsyncContextManager[StateStore]:
    file = directory / "state.db"
    if not file.exists():
        file.write_bytes(_empty())
    return connected(f"sqlite:///{file}")


@cache
def _empty() -> bytes:
    """A store without anything in it: making the tables takes longer than any test on them."""
    with TemporaryDirectory() as directory:
        file = Path(directory, "state.db")
        sqlite_file.prepare(file, SCHEMA)
        return file.read_bytes()


STORES: Mapping[str, Opening] = {"memory": _memory, "sqlite": _sqlite}
"""What opens each backend in a directory."""


def number(sequence: int, stream: str = "gateway") -> Number:
    return Number(stream, sequence)


def entry(sequence: int, message_id: str = "", *, stream: str = "gateway") -> Entry:
    """A message that comes in: its id is `m` and its sequence unless given, its digest tells ids apart."""
    name = message_id or f"m{sequence}"
    return Entry(number(sequence, stream), name, digest=name.encode(), placed=NOW)


def envelope(entry: Entry) -> bytes:
    return f"envelope of {entry.number}".encode()


def record(fate: Fate.ValueType = DONE, message_id: str = "", status: bytes = b"") -> Record:
    return Record(fate, status or Fate.Name(fate).encode(), digest=message_id.encode())


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
    begun: Mapping[Number, Begun]


async def seen(store: StateStore, key: SessionKey = KEY, *, ids: tuple[str, ...] = (), owner: Owner = OWNER) -> Seen:
    """Look at a session as its owner. `ids` are looked up besides those that the session itself names."""
    loaded = await store.load(key)
    named = sorted({*ids, *loaded.recent, *loaded.cancelled, *(entry.message_id for entry in loaded.inbox)})
    return Seen(
        # What has no order of its own is put into one.
        replace(loaded, recent=sorted(loaded.recent), cancelled=sorted(loaded.cancelled)),
        await store.summary(key),
        {id_: await store.waiting(key, id_) for id_ in named},
        {id_: await store.record(key, id_) for id_ in named},
        # A start that was counted already counts nothing, and shows envelope and journal.
        {entry.number: await store.begin(owner, key, replace(entry, attempts=-1)) for entry in loaded.inbox},
    )
