"""Sessions as a whole: shown, listed, deleted."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

import structlog

from troupe.broker.addressing import SessionKey
from troupe.chassis.clock import Clock
from troupe.chassis.errors import DeadlineExceeded, InvalidArgument, NotFound, TroupeError, Unavailable
from troupe.chassis.ids import uuid7
from troupe.chassis.wire import timestamp
from troupe.dataplane import promises
from troupe.dataplane.actors.actor import Actor
from troupe.dataplane.actors.endings import cancelled_record
from troupe.dataplane.actors.host import Host
from troupe.dataplane.following import bare
from troupe.dataplane.gateway import Gateway
from troupe.dataplane.peers import Peers
from troupe.dataplane.placement import Placement, ShardOwner
from troupe.dataplane.session_history import newest_entries
from troupe.dataplane.standing import FINAL
from troupe.dataplane.state.errors import Fenced
from troupe.dataplane.state.port import StateStore
from troupe.dataplane.state.session import Entry, Owner, Record, SessionSummary
from troupe.v1 import agent_pb2, turn_pb2
from troupe.v1.agent_pb2 import DeleteSessionRequest, GetSessionRequest, HistoryEntry, Session
from troupe.v1.turn_pb2 import Fate, Usage

PAGE: Final = 100
"""Messages or promises that the store is asked for at once."""
MAX_DIGITS: Final = 9
"""Of a shard's number in a page token."""
DELETE_WAIT: Final = 10.0
"""Seconds that a cancelled turn gets to end before its session is deleted."""

log = structlog.get_logger()


class Sessions:
    """One worker's view of all sessions."""

    def __init__(
        self, store: StateStore, host: Host, gateway: Gateway, clock: Clock, placement: Placement, peers: Peers
    ) -> None:
        self._store, self._host, self._gateway, self._clock = store, host, gateway, clock
        self._placement, self._peers = placement, peers

    async def get(
        self, key: SessionKey, newest: int, *, relayed: bool = False
    ) -> tuple[Session, Sequence[HistoryEntry]]:
        """The session and its `newest` history entries, oldest first: as its owner has it, or, where that does not
        answer, as the store does. `relayed`: another worker asks the owner. Raises NotFound."""
        await self._gateway.ready()
        owner = None if relayed else self._gateway.following.owner(key)
        if owner is not None:
            try:
                told = await self._peers.session(owner, GetSessionRequest(session=bare(key), history=newest))
            except NotFound:
                raise
            except TroupeError as error:
                log.info("owner not asked", worker=owner.worker_id, session=str(key), error=str(error))
            else:
                return told.session, told.history
        shard = key.shard(self._placement.shard_count)
        session = self._session(shard, await self._summary(shard, key))
        waits_for = await self._store.promises(key.path, None, PAGE)
        session.promises.extend(promises.shown(whose, promise) for _, whose, promise in waits_for if whose == key)
        return session, await newest_entries(self._store, key, newest)

    async def list(self, prefix: str, size: int, token: str) -> tuple[list[Session], str]:
        """A page of the sessions whose paths begin with `prefix`, and the token of the next one, empty at the end."""
        await self._gateway.ready()
        found = await self._store.summaries(prefix, _place(token), size + 1)
        page = found[:size]
        following = f"{page[-1][0]}:{page[-1][1].key.path}" if len(found) > size else ""
        return [self._session(shard, summary) for shard, summary in page], following

    async def delete(self, key: SessionKey, *, relayed: bool = False) -> int:
        """Cancel what runs, waits and is scheduled, drop reminders, state and history, withdraw promises; how many
        messages that cancelled. The session's owner does it; `relayed`: another worker asks it to. Raises Unavailable
        where the owner does not answer, or a turn does not end."""
        await self._gateway.ready()
        elsewhere = None if relayed else self._gateway.following.owner(key)
        if elsewhere is not None:
            return await self._passed_on(elsewhere, key)
        owner = self._host.owner(key.shard(self._placement.shard_count))
        if owner is None:
            raise Unavailable("NOT_OWNER", f"no worker holds the shard of session {key} now; try again", retry_after=1)
        actor = self._host.wake(owner, key)
        try:
            cancelled = await self._end_begun(key)
            with actor.still():
                cancelled += await self._cancel_running(actor)
                async with actor.rewritten():
                    dropped = await self._drop(owner, key)
        except Fenced as fenced:
            moves = f"session {key} moves to another worker; try again"
            raise Unavailable("NOT_OWNER", moves, retry_after=1) from fenced
        return cancelled + await self._tell(key, dropped)

    async def _tell(self, key: SessionKey, dropped: Mapping[str, Record]) -> int:
        """Tell those who follow these messages how they ended: some had before. How many the deletion cancelled."""
        kept = await asyncio.gather(*(self._store.record(key, message_id) for message_id in dropped))
        ends = [record or given for record, given in zip(kept, dropped.values(), strict=True)]
        for end in ends:
            self._gateway.following.announce(key, end)
        return sum(end.status == given.status for end, given in zip(ends, dropped.values(), strict=True))

    async def _summary(self, shard: int, key: SessionKey) -> SessionSummary:
        """Raises NotFound where nothing is known of the session. The store has no summary of one whose first turn has
        not ended yet."""
        summary, actor = await self._store.summary(key), self._host.actor(key)
        if summary is not None:
            return summary
        stands = Counter([fate async for _, fate in self._messages(shard, key)])
        scheduled = stands[turn_pb2.FATE_SCHEDULED]
        if not (stands or (actor and (actor.running or actor.waiting))):
            raise NotFound("SESSION_UNKNOWN", f"no session {key}; send it a message to begin one")
        return SessionSummary(key, 0, 0, stands.total() - scheduled, b"", 0.0, 0.0, scheduled)

    async def _messages(self, shard: int, key: SessionKey) -> AsyncIterator[tuple[Entry, Fate.ValueType]]:
        """What waits in the session or is scheduled."""
        after: tuple[str, str] | None = (key.path, "")
        while page := await self._store.messages(shard, key.path, after, PAGE):
            for whose, entry, fate in page:
                if whose != key:
                    return
                yield entry, fate
            after = key.path, page[-1][1].message_id

    async def _passed_on(self, owner: ShardOwner, key: SessionKey) -> int:
        try:
            return (await self._peers.delete(owner, DeleteSessionRequest(session=bare(key)))).cancelled
        except DeadlineExceeded as error:
            raise Unavailable(
                "OWNER_SILENT",
                f"{owner.worker_id}, which owns session {key}, did not say whether it deleted it; try again",
                retry_after=1,
            ) from error

    async def _end_begun(self, key: SessionKey) -> int:
        """Where something waits that has a journal, cancel all that waits: a turn takes back what it did, and nothing
        else starts after it. How many that cancelled. Raises Unavailable where one does not end."""
        loaded, shard = await self._store.load(key), key.shard(self._placement.shard_count)
        waiting = [entry.message_id for entry in loaded.inbox if not entry.skip and entry.running is None]
        # What goes on for another message has a journal as it is scheduled.
        waiting += [
            entry.message_id
            async for entry, _ in self._messages(shard, key)
            if entry.due and entry.message_id in loaded.journaled
        ]
        if loaded.journaled.isdisjoint(waiting):
            return 0
        cancelled = 0
        for message_id in sorted(waiting, key=lambda one: one in loaded.journaled):
            await self._gateway.cancel(key, message_id, uuid7())
        for message_id in waiting:
            status = await self._gateway.status(key, message_id, DELETE_WAIT, relayed=True)
            if status.fate not in FINAL:
                raise _still_runs(key)
            cancelled += status.fate == turn_pb2.FATE_CANCELLED
        return cancelled

    async def _cancel_running(self, actor: Actor) -> int:
        """How many turns that cancelled."""
        if actor.turn is None:
            return 0
        message_id = actor.turn.message_id
        answer = await self._gateway.cancel(actor.key, message_id, uuid7())
        try:
            async with asyncio.timeout(DELETE_WAIT):
                await actor.rested.wait()
        except TimeoutError as error:
            raise _still_runs(actor.key) from error
        return int(answer != agent_pb2.VERB_ANSWER_TOO_LATE)

    async def _drop(self, owner: Owner, key: SessionKey) -> Mapping[str, Record]:
        """How what waits and is scheduled has ended, by message, unless it had before."""
        now = self._clock.now()
        shard = key.shard(self._placement.shard_count)
        inbox = [entry for entry in (await self._store.load(key)).inbox if not entry.skip]
        for entry in inbox:
            if entry.running is not None:
                await self._gateway.cancel(key, entry.message_id, uuid7())
                raise _still_runs(key)
        scheduled = [entry async for entry, _ in self._messages(shard, key) if entry.due]
        waiting = {
            entry.message_id: cancelled_record(key, entry.message_id, entry.digest, entry.attempts, now)
            for entry in [*inbox, *scheduled]
        }
        await self._store.delete(owner, key, waiting, now)
        return waiting

    def _session(self, shard: int, summary: SessionSummary) -> Session:
        actor = self._host.actor(summary.key)
        session = Session(
            session=summary.key.ref(),
            version=summary.version,
            turns=summary.turns,
            waiting=summary.waiting,
            usage=Usage.FromString(summary.usage),
            shard=shard,
            scheduled=summary.scheduled,
        )
        if summary.created:
            session.created_at.CopyFrom(timestamp(summary.created))
            session.updated_at.CopyFrom(timestamp(summary.updated))
        if (owner := self._placement.owner_of(shard)) is not None:
            session.worker_id = owner.worker_id
        if actor is not None:
            session.waiting = actor.waiting
        session.state = agent_pb2.SESSION_STATE_WAITING if session.waiting else agent_pb2.SESSION_STATE_IDLE
        if actor is not None and actor.running is not None:
            session.state = agent_pb2.SESSION_STATE_RUNNING
            session.running_message_id = actor.running.message_id
        return session


def _still_runs(key: SessionKey) -> Unavailable:
    return Unavailable("TURN_RUNS", f"the running turn of session {key} did not end; try again", retry_after=1)


def _place(token: str) -> tuple[int, str] | None:
    if not token:
        return None
    shard, _, path = token.partition(":")
    if not (shard.isascii() and shard.isdecimal() and len(shard) <= MAX_DIGITS and path):
        raise InvalidArgument("BAD_PAGE_TOKEN", "page_token: is none that ListSessions gave")
    return int(shard), path
