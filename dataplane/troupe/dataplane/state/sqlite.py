"""Session state in one SQLite file: each script is one job of a group-committed transaction."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.chassis.clock import Clock, SystemClock
from troupe.chassis.sqlite import Database
from troupe.dataplane.state import promises as ends
from troupe.dataplane.state import rules, schedule, sqlite_forget, sqlite_lists
from troupe.dataplane.state import sqlite_control as controls
from troupe.dataplane.state import sqlite_places as places
from troupe.dataplane.state import sqlite_rows as rows
from troupe.dataplane.state import sqlite_tables as tables
from troupe.dataplane.state import verbs as verbs_
from troupe.dataplane.state.control import Control, Promise, Settlement
from troupe.dataplane.state.port import Begun, Claimed, Due, Placed, Resting, TurnCommit
from troupe.dataplane.state.rules import Suspending
from troupe.dataplane.state.session import (
    RECORD_KEPT,
    Attempt,
    Backlog,
    Entry,
    Loaded,
    Mark,
    Owner,
    Record,
    SessionSummary,
    Verbs,
)
from troupe.dataplane.state.sqlite_rows import MESSAGE, NUMBER
from troupe.dataplane.state.sqlite_tables import AWAITS, SCHEMA, SUMMARY
from troupe.v1 import agent_pb2, turn_pb2
from troupe.v1.agent_pb2 import VerbAnswer
from troupe.v1.promise_pb2 import SettlementAnswer
from troupe.v1.turn_pb2 import Fate

T = TypeVar("T")


class SqliteStateStore:
    """See `troupe.dataplane.state.port.StateStore`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    @staticmethod
    @contextlib.asynccontextmanager
    async def opened(path: Path, clock: Clock | None = None) -> AsyncIterator["SqliteStateStore"]:
        """The store on the file at `path`, which this process then owns. `clock` is the store's own. Errors are those
        of Database.opened."""
        async with Database.opened(path, SCHEMA) as database:
            yield SqliteStateStore(database, clock or SystemClock())

    async def declare(self, shards: int) -> None:
        def script(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR IGNORE INTO fleet (shards, fleet) VALUES (?, 0)", (shards,))
            (declared,) = db.execute("SELECT shards FROM fleet").fetchone()
            if declared != shards:
                raise rules.shards_changed(declared, shards)

        await self._database.write(script)

    async def claim(self, owner: Owner) -> Claimed:
        def script(db: sqlite3.Connection) -> Claimed:
            rows.admit(db, owner)
            return Claimed(_sessions(db, _DUE, owner.shard), _sessions(db, _BOUND, owner.shard))

        return await self._database.write(script)

    async def due(self, owner: Owner, busy: Collection[SessionKey] = ()) -> Due:
        running = frozenset(busy)

        def script(db: sqlite3.Connection) -> Due:
            rows.admit(db, owner)
            now = self._clock.now()
            due = controls.due(db, owner.shard, now, schedule.DUE_AT_ONCE)
            changed = {each.key for each in due if places.come(db, owner, each, busy=running, now=now)}
            following = controls.following(db, owner.shard)
            return Due(list(changed), None if following is None else max(0.0, following - now))

        return await self._database.write(script)

    async def load(self, key: SessionKey) -> Loaded:
        return await self._at_one_moment(lambda db: rows.load(db, key.path))

    async def put(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes, *, busy: bool = False) -> Placed:
        def script(db: sqlite3.Connection) -> Placed:
            rows.admit(db, owner)
            return places.place(db, owner, key, entry, envelope, busy=busy, now=self._clock.now())

        return await self._database.write(script)

    async def begin(self, owner: Owner, key: SessionKey, entry: Entry) -> Begun:
        def script(db: sqlite3.Connection) -> Begun:
            rows.admit(db, owner)
            waits = rows.waits(db, key, entry.number)
            bound = controls.bound(db, key, waits.message_id) if waits else verbs_.Bound()
            started = rules.started(owner, entry, waits, bound)
            if started != waits:
                rows.rewrite(db, key, started)
                controls.wake(db, key)
            journal = rows.journal(db, key, started.message_id, started.digest)
            made = controls.promises_of(db, key, started.message_id)
            return Begun(rows.envelope(db, key, entry.number), journal, made, started.skip)

        return await self._database.write(script)

    async def take_over(self, owner: Owner, key: SessionKey, number: Number, mark: Mark) -> bool:
        def script(db: sqlite3.Connection) -> bool:
            rows.admit(db, owner)
            taken = rules.taken_over(rows.waits(db, key, number), mark)
            if taken is not None:
                rows.rewrite(db, key, taken, at_head=True)
                controls.wake(db, key)
            return taken is not None

        return await self._database.write(script)

    async def journal(
        self,
        owner: Owner,
        key: SessionKey,
        attempt: Attempt,
        steps: Mapping[str, bytes],
        *,
        starts: bool,
        compensates: bool = False,
        promises: Sequence[Promise] = (),
    ) -> None:
        def script(db: sqlite3.Connection) -> None:
            found, _ = rows.look(db, key, attempt.number, attempt.message_id)
            rows.admit(db, owner, found.waits)
            if rules.may_keep(attempt, found, starts=starts, compensates=compensates):
                rows.add_steps(db, key, attempt.message_id, attempt.digest, steps)
                controls.make(db, owner.shard, key, promises)

        await self._database.write(script)

    async def suspend(
        self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes, *, runs: bool = False
    ) -> bool:
        def script(db: sqlite3.Connection) -> bool:
            found, _ = rows.look(db, key, entry.number, entry.message_id)
            rows.admit(db, owner, found.waits)
            pending = all(ends.is_open(controls.promise(db, key, id_)) for id_ in entry.awaits)
            match rules.suspending(entry, found, pending=pending, runs=runs):
                case Suspending.GOES_ON:
                    return False
                case Suspending.RUNS_ON if found.waits is not None:
                    rows.rewrite(db, key, rules.runs_on(found.waits, owner.mark))
                    controls.wake(db, key)
                    return False
                case Suspending.PLACED:
                    rows.put_first(db, owner.shard, key, rules.suspended(entry), envelope, found)
                    controls.rest(db, key)
                case Suspending.RESTS:
                    controls.rest(db, key)
            return True

        return await self._database.write(script)

    async def retry(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes) -> None:
        def script(db: sqlite3.Connection) -> None:
            found, _ = rows.look(db, key, entry.number, entry.message_id)
            rows.admit(db, owner, found.waits)
            if rules.puts_back(entry, found):
                rows.put_first(db, owner.shard, key, replace(entry, running=None), envelope, found)
                controls.wake(db, key)

        await self._database.write(script)

    async def commit(self, owner: Owner, commit: TurnCommit) -> int:
        def script(db: sqlite3.Connection) -> int:
            key, record, shard, now = commit.key, commit.record, owner.shard, commit.now
            found, controlled = rows.look(db, key, commit.number, commit.message_id)
            rows.admit(db, owner, found.waits)
            others = [rows.look(db, key, other.number, other.message_id)[0] for other in commit.companions]
            positions = rules.settled(commit, found, others)
            if positions is None:
                return found.version
            done = record is not None and record.fate == turn_pb2.FATE_DONE
            rows.end(db, shard, key, commit, found, positions, now, controlled=controlled)
            if done:
                for other, its in zip(commit.companions, others, strict=True):
                    rows.end(db, shard, key, other, its, positions, now, controlled=controlled)
            if controlled:
                controls.wake(db, key)
            if not done:
                return found.version
            rows.save_session(db, shard, commit, found.version + 1)
            return found.version + 1

        return await self._database.write(script)

    async def pass_over(self, owner: Owner, key: SessionKey, number: Number, count: int, now: float) -> bool:
        def script(db: sqlite3.Connection) -> bool:
            rows.admit(db, owner)
            settled, gaps, waits = db.execute(
                _RUN,
                {
                    "path": key.path,
                    "stream": number.stream,
                    "first": number.sequence,
                    "last": number.sequence + count - 1,
                },
            ).fetchone()
            position = rules.passed_over(tables.position(settled, gaps), number, count, waits=bool(waits))
            if position is not None:
                rows.save_position(db, key, number.stream, position, now)
                controls.wake(db, key)
            return position is not None

        return await self._database.write(script)

    async def strike(self, owner: Owner, key: SessionKey, numbers: Sequence[Number]) -> None:
        def script(db: sqlite3.Connection) -> None:
            rows.admit(db, owner)
            db.executemany(
                f"DELETE FROM outbox WHERE {NUMBER}", [(key.path, each.stream, each.sequence) for each in numbers]
            )

        await self._database.write(script)

    async def backlog(self, shard: int) -> Backlog:
        return await self._counted("SELECT messages, bytes FROM backlog WHERE shard = ?", shard)

    async def session_backlog(self, key: SessionKey) -> Backlog:
        return await self._counted(_SESSION_BACKLOG, key.path)

    async def redrive(self, key: SessionKey, message_id: str, number: Number) -> None:
        def script(db: sqlite3.Connection) -> None:
            found, _ = rows.look(db, key, number, message_id)
            if rules.is_awaited(found.position, number, found.fate):
                rows.await_(db, key, message_id, number)

        await self._database.write(script)

    async def purge(self, key: SessionKey, message_id: str) -> None:
        def script(db: sqlite3.Connection) -> None:
            fate, awaited = rows.fate_of(db, key, message_id)
            if rules.is_purged(fate, awaited=awaited, live=bool(rows.waiting(db, key, message_id))):
                db.execute(f"UPDATE record SET stays = 0 WHERE {MESSAGE}", (key.path, message_id))

        await self._database.write(script)

    async def record(self, key: SessionKey, message_id: str) -> Record | None:
        row = await self._database.read(
            lambda db: db.execute(_RECORD, {"path": key.path, "message_id": message_id}).fetchone()
        )
        if row is None:
            return None
        fate, status, digest, awaited, live = row
        return Record(fate, status, digest, rules.is_redriven(fate, awaited=bool(awaited), live=bool(live)))

    async def waiting(self, key: SessionKey, message_id: str) -> Entry | None:
        def script(db: sqlite3.Connection) -> Entry | None:
            return next(iter(rows.waiting(db, key, message_id)), None) or controls.scheduled(db, key, message_id)

        return await self._database.read(script)

    async def control(self, key: SessionKey, control: Control) -> VerbAnswer.ValueType:
        def script(db: sqlite3.Connection) -> VerbAnswer.ValueType:
            seen = controls.recorded(db, key, control)
            if seen is not None:
                return seen
            found = rows.standing(db, key, control)
            answer = verbs_.verb_answer(control, found)
            if control.dry_run:
                return answer
            (shards,), now = db.execute("SELECT shards FROM fleet").fetchone(), self._clock.now()
            shard, lifted = key.shard(shards), verbs_.lifted(control, answer, found)
            controls.record_verb(db, shard, key, control, answer, lifted, now)
            if control.restart is not None and answer == agent_pb2.VERB_ANSWER_APPLIED:
                rows.restart(db, shard, key, control.message_id, control.restart, now)
            if (digest := verbs_.ends_at_once(control, answer, found)) is not None:
                record = Record(turn_pb2.FATE_CANCELLED, control.status, digest)
                rows.settle(db, key, control.message_id, record, now)
            return answer

        return await self._database.write(script)

    async def resting(self, key: SessionKey, message_id: str) -> Resting | None:
        return await self._at_one_moment(lambda db: rows.resting(db, key, message_id))

    async def verbs(self, key: SessionKey) -> Verbs:
        return await self._database.read(lambda db: controls.verbs(db, key.path))

    async def settle_promise(self, key: SessionKey, settlement: Settlement) -> SettlementAnswer.ValueType:
        def script(db: sqlite3.Connection) -> SettlementAnswer.ValueType:
            promise = controls.promise(db, key, settlement.promise_id)
            if promise is None:
                raise KeyError(settlement.promise_id)
            answer, settled = ends.settled(promise, settlement, self._clock.now())
            if settled != promise:
                controls.end(db, key, [settled])
            return answer

        return await self._database.write(script)

    async def promise(self, key: SessionKey, promise_id: str) -> Promise | None:
        return await self._database.read(lambda db: controls.promise(db, key, promise_id))

    async def promises(
        self, prefix: str, after: tuple[int, str, str] | None, limit: int, *, settled: bool = False
    ) -> Sequence[tuple[int, SessionKey, Promise]]:
        return await self._database.read(lambda db: sqlite_lists.promises(db, prefix, after, limit, settled=settled))

    async def messages(
        self, shard: int, prefix: str, after: tuple[str, str] | None, limit: int
    ) -> Sequence[tuple[SessionKey, Entry, Fate.ValueType]]:
        return await self._database.read(lambda db: sqlite_lists.messages(db, shard, prefix, after, limit))

    async def history(self, key: SessionKey, before: int | None, limit: int) -> Sequence[tuple[int, bytes]]:
        query = "SELECT version, delta FROM history WHERE path = ? AND version < ? ORDER BY version DESC LIMIT ?"
        below = _NEWEST if before is None else before
        return await self._database.read(lambda db: db.execute(query, (key.path, below, limit)).fetchall())

    async def summary(self, key: SessionKey) -> SessionSummary | None:
        row = await self._database.read(
            lambda db: db.execute(f"SELECT {SUMMARY} FROM session WHERE path = ?", (key.path,)).fetchone()
        )
        return None if row is None else tables.summary(row)

    async def summaries(
        self, prefix: str, after: tuple[int, str] | None, limit: int
    ) -> Sequence[tuple[int, SessionSummary]]:
        return await self._database.read(lambda db: sqlite_lists.summaries(db, prefix, after, limit))

    async def delete(self, owner: Owner, key: SessionKey, cancelled: Mapping[str, Record], now: float) -> None:
        def script(db: sqlite3.Connection) -> None:
            rows.admit(db, owner)
            for table in ("session", "history", "snapshot", "reminder"):
                db.execute(f"DELETE FROM {table} WHERE path = ?", (key.path,))
            for message_id, record in cancelled.items():
                if not rows.is_past(db, key, message_id):
                    rows.settle(db, key, message_id, record, now)
            controls.wake(db, key)

        await self._database.write(script)

    async def forget(self, now: float) -> None:
        for drop in sqlite_forget.drops(now - RECORD_KEPT, now):
            while await self._database.write(drop) > 0:
                pass

    async def _at_one_moment(self, look: Callable[[sqlite3.Connection], T]) -> T:
        """What several reads find, in one transaction."""

        def script(db: sqlite3.Connection) -> T:
            db.execute("BEGIN")
            try:
                return look(db)
            finally:
                db.rollback()

        return await self._database.read(script)

    async def _counted(self, query: str, name: int | str) -> Backlog:
        row = await self._database.read(lambda db: db.execute(query, (name,)).fetchone())
        return Backlog(*(row or (0, 0)))


def _sessions(db: sqlite3.Connection, query: str, shard: int) -> list[SessionKey]:
    return [SessionKey.parse(path) for (path,) in db.execute(query, {"shard": shard})]


_NEWEST = 2**63 - 1
_SESSION_BACKLOG = """
    SELECT messages, bytes FROM session_backlog
    WHERE path = ?1 AND shard = (SELECT shard FROM inbox WHERE path = ?1 LIMIT 1)
"""
_DUE = """
    SELECT path FROM session_backlog WHERE shard = :shard
    EXCEPT SELECT path FROM control WHERE shard = :shard AND rests = 1
    UNION SELECT path FROM outbox WHERE shard = :shard
"""
_BOUND = """
    SELECT DISTINCT path FROM verb WHERE shard = :shard AND binds = 1
    EXCEPT SELECT path FROM control WHERE shard = :shard AND rests = 1
"""
_RECORD = f"""
    SELECT fate, status, digest, {AWAITS},
        EXISTS (SELECT 1 FROM inbox WHERE path = :path AND message_id = :message_id AND skip = 0)
    FROM record WHERE path = :path AND message_id = :message_id
"""
_RUN = """
    SELECT stream.settled, stream.gaps,
        EXISTS (SELECT 1 FROM inbox WHERE path = :path AND stream = :stream AND sequence BETWEEN :first AND :last)
    FROM (SELECT 1) LEFT JOIN stream ON stream.path = :path AND stream.stream = :stream
"""
