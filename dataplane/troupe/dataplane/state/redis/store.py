"""The state store on Redis: what each script is called with, and what its reply means."""

import contextlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number, Position
from troupe.chassis.errors import Unavailable
from troupe.chassis.redis_address import address
from troupe.dataplane.state import rules, schedule, verbs
from troupe.dataplane.state.control import Control, Promise, Settlement
from troupe.dataplane.state.errors import Fenced
from troupe.dataplane.state.port import Begun, Claimed, Due, Placed, Resting, TurnCommit
from troupe.dataplane.state.redis import layout, scripts
from troupe.dataplane.state.redis.link import USE, Link
from troupe.dataplane.state.redis.scripts import Script
from troupe.dataplane.state.session import (
    RECENT,
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
from troupe.v1.agent_pb2 import VerbAnswer
from troupe.v1.promise_pb2 import SettlementAnswer
from troupe.v1.turn_pb2 import Fate

FORGOTTEN_SESSIONS, FORGOTTEN_RECORDS = 16, 256
"""Sessions that one step of `forget` looks at, and records that it drops from each: about a millisecond."""
DUE_IN_ONE_SCRIPT = 100
"""Of what is due: a few milliseconds, in which Redis does nothing else."""
NO_RECORD = 0
"""What stands for the fate where a commit has no record: no Fate."""


class RedisStateStore:
    """See `troupe.dataplane.state.port.StateStore`. `declare` comes before all else where the fleet is new."""

    def __init__(self, link: Link, prefix: str) -> None:
        self._link, self._prefix = link, prefix
        self._shards = 0

    @staticmethod
    @contextlib.asynccontextmanager
    async def opened(url: str, *, allow_volatile: bool = False) -> AsyncIterator["RedisStateStore"]:
        """The store at `url`: `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE][?prefix=NAME]`, `rediss://` with TLS.

        Raises, each with one sentence of what to do: InvalidArgument for the URL; Unavailable where no Redis answers;
        FailedPrecondition where the server refuses, is a replica or a node of a cluster, is too old, or, unless
        `allow_volatile`, does not keep what it confirms."""
        place = address(url, USE.store)
        async with Link.opened(place, allow_volatile=allow_volatile) as link:
            yield RedisStateStore(link, place.prefix)

    async def declare(self, shards: int) -> None:
        declared = await self._link.call(scripts.DECLARE, f"{self._prefix}shards", "", shards)
        if declared != shards:
            raise rules.shards_changed(declared, shards)
        self._shards = shards

    async def claim(self, owner: Owner) -> Claimed:
        return layout.claimed(await self._owned(scripts.CLAIM, owner, ""))

    async def due(self, owner: Owner, busy: Collection[SessionKey] = ()) -> Due:
        sessions: dict[SessionKey, None] = {}
        left, running = schedule.DUE_AT_ONCE, [key.path for key in busy]
        while True:
            limit = min(left, DUE_IN_ONE_SCRIPT)
            changed, taken, following = await self._owned(scripts.DUE, owner, "", limit, *running)
            sessions.update(dict.fromkeys(map(layout.session, changed)))
            left -= taken
            if not left or taken < limit:
                return Due(list(sessions), None if following is None else float(following))

    async def load(self, key: SessionKey) -> Loaded:
        return layout.loaded(await self._read(scripts.LOAD, key, RECENT))

    async def put(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes, *, busy: bool = False) -> Placed:
        (placed,) = await self._owned(scripts.PUT, owner, key.path, layout.packed(entry), envelope, int(busy))
        return Placed[placed.decode()]

    async def begin(self, owner: Owner, key: SessionKey, entry: Entry) -> Begun:
        reply = await self._asked(scripts.BEGIN, owner, key.path, *_number(entry.number), entry.attempts, entry.starts)
        match reply:
            case [b"OK", envelope, digest, journal, promises, skip]:
                made = sorted((layout.promise(*each) for each in promises), key=lambda promise: promise.id)
                return Begun(envelope, layout.journal(journal, digest), made, bool(skip))
            case [b"MARKED", message_id, instance, epoch]:
                raise rules.marked(message_id.decode(), Mark(epoch, instance.decode()))
            case [b"PAUSED", message_id]:
                raise verbs.pause_recorded(message_id.decode())
        raise KeyError(entry.number)

    async def take_over(self, owner: Owner, key: SessionKey, number: Number, mark: Mark) -> bool:
        (taken,) = await self._owned(scripts.TAKE_OVER, owner, key.path, *_number(number), mark.epoch, mark.instance)
        return bool(taken)

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
        reply = await self._asked(
            scripts.JOURNAL,
            owner,
            key.path,
            *_number(attempt.number),
            attempt.message_id,
            attempt.index + 1,
            attempt.digest.hex(),
            "s" * starts + "c" * compensates,
            len(promises),
            *(part for promise in promises for part in layout.packed_promise(promise)),
            *(part for step in steps.items() for part in step),
        )
        _refuse_bound(reply)
        if reply[0] == b"ENDED":
            raise rules.attempt_ended(attempt)

    async def suspend(
        self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes, *, runs: bool = False
    ) -> bool:
        suspended = rules.suspended(entry)
        reply = await self._asked(scripts.SUSPEND, owner, key.path, layout.packed(suspended), envelope, int(runs))
        _refuse_bound(reply)
        return bool(reply[1])

    async def retry(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes) -> None:
        reply = await self._asked(scripts.RETRY, owner, key.path, layout.packed(replace(entry, running=None)), envelope)
        _refuse_bound(reply)

    async def commit(self, owner: Owner, commit: TurnCommit) -> int:
        record = commit.record
        changed = {"s": commit.state, "h": commit.history, "u": commit.usage}
        reply = await self._asked(
            scripts.COMMIT,
            owner,
            commit.key.path,
            *_number(commit.number),
            commit.message_id,
            commit.attempt + 1,
            commit.version,
            repr(commit.now),
            *((NO_RECORD, "", "") if record is None else _record(record)),
            "".join(name for name, value in changed.items() if value is not None)
            + ("n" if commit.snapshot is not None else ""),
            *(value or b"" for value in changed.values()),
            repr(commit.now + commit.retention),
            *_extras(commit),
            *(part for sent in commit.outbox for part in (sent.target, *_number(sent.number), sent.envelope)),
        )
        _refuse_bound(reply)
        match reply:
            case [b"OK", version]:
                return int(version)
            case [b"VERSION", version]:
                raise rules.version_conflict(commit, version)
            case [b"ENDED"]:
                raise rules.message_settled(commit)
            case [b"WAITS"]:
                raise rules.message_waits(commit)
            case [b"GONE", message_id]:
                gone = message_id.decode()
                raise rules.companion_gone(next(each for each in commit.companions if each.message_id == gone))
        # What comes too early is refused as the rule says it.
        Position(reply[1]).settle(reply[2])
        raise AssertionError(reply)

    async def pass_over(self, owner: Owner, key: SessionKey, number: Number, count: int, now: float) -> bool:
        (passed,) = await self._owned(scripts.PASS_OVER, owner, key.path, *_number(number), count, repr(now))
        return bool(passed)

    async def strike(self, owner: Owner, key: SessionKey, numbers: Sequence[Number]) -> None:
        await self._owned(scripts.STRIKE, owner, key.path, *(part for number in numbers for part in _number(number)))

    async def backlog(self, shard: int) -> Backlog:
        return _backlog(await self._link.call(scripts.BACKLOG, self._fence(shard), ""))

    async def session_backlog(self, key: SessionKey) -> Backlog:
        return _backlog(await self._read(scripts.BACKLOG, key))

    async def redrive(self, key: SessionKey, message_id: str, number: Number) -> None:
        await self._read(scripts.REDRIVE, key, message_id, *_number(number))

    async def purge(self, key: SessionKey, message_id: str) -> None:
        await self._read(scripts.PURGE, key, message_id)

    async def record(self, key: SessionKey, message_id: str) -> Record | None:
        kept = await self._read(scripts.RECORD, key, message_id)
        return None if kept is None else layout.record(*kept)

    async def waiting(self, key: SessionKey, message_id: str) -> Entry | None:
        kept = await self._read(scripts.WAITING, key, message_id)
        return None if kept is None else layout.entry(kept)

    async def control(self, key: SessionKey, control: Control) -> VerbAnswer.ValueType:
        answer = await self._read(
            scripts.CONTROL,
            key,
            control.message_id,
            control.verb,
            control.verb_id,
            "" if control.attempt is None else control.attempt,
            control.lifts,
            control.status,
            int(control.dry_run),
            *(layout.restart(control.restart) if control.restart else ()),
        )
        return VerbAnswer.ValueType(answer)

    async def resting(self, key: SessionKey, message_id: str) -> Resting | None:
        found = await self._read(scripts.RESTING, key, message_id)
        return None if found is None else layout.resting(found)

    async def verbs(self, key: SessionKey) -> Verbs:
        return layout.verbs(await self._read(scripts.VERBS, key))

    async def settle_promise(self, key: SessionKey, settlement: Settlement) -> SettlementAnswer.ValueType:
        answer = await self._read(
            scripts.SETTLE_PROMISE,
            key,
            settlement.promise_id,
            settlement.id,
            settlement.state,
            settlement.value,
            settlement.by,
        )
        if answer is None:
            raise KeyError(settlement.promise_id)
        return SettlementAnswer.ValueType(answer)

    async def promise(self, key: SessionKey, promise_id: str) -> Promise | None:
        kept = await self._read(scripts.PROMISE, key, promise_id)
        return None if kept is None else layout.promise(*kept)

    async def promises(
        self, prefix: str, after: tuple[int, str, str] | None, limit: int, *, settled: bool = False
    ) -> Sequence[tuple[int, SessionKey, Promise]]:
        page: list[tuple[int, SessionKey, Promise]] = []
        first, *last = after or (0, "", "")
        for shard in range(max(first, 0), self._declared()):
            if len(page) >= limit:
                break
            bounds = _members(prefix, tuple(last) if after and shard == first else None)
            rows = await self._link.call(
                scripts.PROMISES, self._fence(shard), "", int(settled), *bounds, limit - len(page)
            )
            page += [(shard, layout.session(path), layout.promise(*promise)) for path, promise in rows]
        return page

    async def messages(
        self, shard: int, prefix: str, after: tuple[str, str] | None, limit: int
    ) -> Sequence[tuple[SessionKey, Entry, Fate.ValueType]]:
        rows = await self._link.call(scripts.MESSAGES, self._fence(shard), "", *_members(prefix, after), limit)
        return [(layout.session(path), layout.entry(kept), Fate.ValueType(fate)) for path, kept, fate in rows]

    async def history(self, key: SessionKey, before: int | None, limit: int) -> Sequence[tuple[int, bytes]]:
        kept = await self._read(scripts.HISTORY, key, "" if before is None else before, limit)
        return [layout.delta(each) for each in kept]

    async def summary(self, key: SessionKey) -> SessionSummary | None:
        page = await self._read(scripts.SUMMARIES, key)
        return layout.summary(page[0]) if page else None

    async def summaries(
        self, prefix: str, after: tuple[int, str] | None, limit: int
    ) -> Sequence[tuple[int, SessionSummary]]:
        page: list[tuple[int, SessionSummary]] = []
        first, last = after or (0, "")
        for shard in range(max(first, 0), self._declared()):
            if len(page) >= limit:
                break
            bounds = _between(prefix, last if shard == first else "")
            found = await self._link.call(scripts.SUMMARIES, self._fence(shard), "", *bounds, limit - len(page))
            page += [(shard, layout.summary(row)) for row in found]
        return page

    async def delete(self, owner: Owner, key: SessionKey, cancelled: Mapping[str, Record], now: float) -> None:
        ended = (part for id_, record in cancelled.items() for part in (id_, *_record(record)))
        await self._owned(scripts.DELETE, owner, key.path, repr(now), *ended)

    async def forget(self, now: float) -> None:
        for shard in range(self._declared()):
            await self._forget_outdated(self._fence(shard), repr(now - RECORD_KEPT))
            await self._forget_idle(self._fence(shard), repr(now))

    async def _forget_outdated(self, fence: str, old: str) -> None:
        while await self._link.call(scripts.FORGET, fence, "", old, FORGOTTEN_SESSIONS, FORGOTTEN_RECORDS):
            pass

    async def _forget_idle(self, fence: str, now: str) -> None:
        passed_by = 0
        while True:
            seen, stay = await self._link.call(scripts.IDLE, fence, "", now, passed_by, FORGOTTEN_SESSIONS)
            if seen == 0:
                return
            passed_by += stay

    # --- calling

    async def _owned(self, script: Script, owner: Owner, path: str, *arguments: bytes | str | int) -> Sequence[Any]:
        """What a script of the owner's answers that is refused in no other way than Fenced."""
        _, *answer = await self._asked(script, owner, path, *arguments)
        return answer

    async def _asked(self, script: Script, owner: Owner, path: str, *arguments: bytes | str | int) -> Sequence[Any]:
        """Raises Fenced."""
        fence = self._fence(owner.shard)
        reply: Sequence[Any] = await self._link.call(script, fence, path, owner.epoch, owner.instance, *arguments)
        if reply[0] == b"FENCED":
            raise Fenced(owner.shard, reply[1])
        return reply

    async def _read(self, script: Script, key: SessionKey, *arguments: bytes | str | int) -> Any:
        return await self._link.call(script, self._fence(key.shard(self._declared())), key.path, *arguments)

    def _fence(self, shard: int) -> str:
        return f"{self._prefix}{{{shard}}}:fence"

    def _declared(self) -> int:
        if not self._shards:
            raise Unavailable(
                "NO_PLACEMENT", "the worker has not heard yet how many shards the fleet has; try again", retry_after=1.0
            )
        return self._shards


def _number(number: Number) -> tuple[int, str]:
    return number.sequence, number.stream


def _record(record: Record) -> tuple[int, str, bytes]:
    return record.fate, record.digest.hex(), record.status


def _extras(commit: TurnCommit) -> Sequence[bytes | str | int]:
    """What few turns have: how many arguments of each kind there are, or nothing, and these."""
    counts = len(commit.companions), len(commit.remind), len(commit.forget_reminders)
    return [
        "{} {} {}".format(*counts) if any(counts) else "",
        *(
            part
            for other in commit.companions
            for part in (*_number(other.number), other.message_id, other.attempt + 1, *_record(other.record))
        ),
        *(part for reminder in commit.remind for part in layout.packed_reminder(reminder)),
        *commit.forget_reminders,
        *([] if commit.snapshot is None else [commit.snapshot]),
    ]


def _refuse_bound(reply: Sequence[Any]) -> None:
    match reply:
        case [b"CANCELLED", message_id, killed]:
            raise verbs.cancel_recorded(message_id.decode(), kill=bool(killed))
        case [b"PAUSED", message_id]:
            raise verbs.pause_recorded(message_id.decode())


def _between(prefix: str, last: str) -> tuple[str, bytes]:
    """The bounds, as ZRANGEBYLEX takes them, of what begins with a prefix and comes after the last."""
    # No text in UTF-8 has the byte FF.
    return f"({last}" if last >= prefix and last else f"[{prefix}", b"(" + prefix.encode() + b"\xff"


def _members(prefix: str, last: tuple[str, ...] | None) -> tuple[str, bytes]:
    """The same of sets that are ordered by session and id, with a NUL between."""
    return _between(prefix, "\0".join(last) if last else "")


def _backlog(reply: Sequence[bytes | None]) -> Backlog:
    messages, bytes_ = (int(count or 0) for count in reply)
    return Backlog(messages, bytes_)
