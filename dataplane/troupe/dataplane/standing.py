"""Where messages stand: as the store has it, as this worker runs it, or as the session's owner says."""

from typing import Final

import structlog

from troupe.broker.addressing import SessionKey
from troupe.chassis.errors import TroupeError
from troupe.chassis.wire import timestamp
from troupe.dataplane.actors.endings import message_id_used
from troupe.dataplane.actors.host import Host
from troupe.dataplane.actors.turn import Turn
from troupe.dataplane.following import Following, bare
from troupe.dataplane.peers import Peers
from troupe.dataplane.state.port import StateStore
from troupe.dataplane.state.session import Entry, Verbs
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import GetMessageRequest, MessageStatus
from troupe.v1.turn_pb2 import Fate

FINAL: Final = frozenset(
    {
        turn_pb2.FATE_DONE,
        turn_pb2.FATE_DEAD,
        turn_pb2.FATE_EXPIRED,
        turn_pb2.FATE_SKIPPED,
        turn_pb2.FATE_CANCELLED,
        turn_pb2.FATE_REJECTED,
    }
)

log = structlog.get_logger()


class Standing:
    """One worker's view of all messages."""

    def __init__(self, store: StateStore, host: Host, following: Following, peers: Peers) -> None:
        self._store, self._host, self._following, self._peers = store, host, following, peers

    async def of(
        self, key: SessionKey, message_id: str, payload: bytes = b"", *, relayed: bool = False
    ) -> MessageStatus:
        """Where the message stands now. Raises AlreadyExists where it was settled with another payload than that with
        the digest `payload`. `relayed`: the owner is not asked, another worker does that."""
        record = await self._store.record(key, message_id)
        if record and payload and record.digest and payload != record.digest:
            raise message_id_used(message_id)
        if record and not record.redriven:
            return MessageStatus.FromString(record.status)
        if not relayed and (told := await self._asked(key, message_id)) is not None:
            return told
        status = MessageStatus(session=key.ref(), message_id=message_id, fate=turn_pb2.FATE_UNSEEN)
        if (turn := self._running(key, message_id)) is not None:
            status.fate = fate(turn.entry, await self._store.verbs(key), runs=True)
            status.attempts, status.failures = turn.attempt + 1, turn.entry.failures
        elif entry := await self._store.waiting(key, message_id):
            _waits(status, entry, await self._store.verbs(key))
        return status

    def _running(self, key: SessionKey, message_id: str) -> Turn | None:
        """Its turn, where it runs here, by itself or in a batch."""
        actor = self._host.actor(key)
        turns = actor.turn.all if actor is not None and actor.turn is not None else []
        return next((turn for turn in turns if turn.message_id == message_id), None)

    async def _asked(self, key: SessionKey, message_id: str) -> MessageStatus | None:
        """What the owner says; None where that is this worker, or does not answer."""
        owner = self._following.owner(key)
        if owner is None:
            return None
        try:
            return await self._peers.message(owner, GetMessageRequest(session=bare(key), message_id=message_id))
        except TroupeError as error:
            log.debug("owner not asked", worker=owner.worker_id, session=str(key), error=str(error))
            return None


def fate(entry: Entry, verbs: Verbs, *, runs: bool = False) -> Fate.ValueType:
    """Where a message stands that is not settled: held by a PAUSE (its step may still be coming to its end), on the
    schedule, running, here (`runs`) or under another owner's mark, or waiting."""
    if entry.message_id in verbs.paused and entry.message_id not in verbs.cancelled:
        return turn_pb2.FATE_PAUSED
    if entry.due:
        return turn_pb2.FATE_SCHEDULED
    return turn_pb2.FATE_RUNNING if runs or entry.running else turn_pb2.FATE_WAITING


def _waits(status: MessageStatus, entry: Entry, verbs: Verbs) -> None:
    status.fate, status.attempts, status.failures = fate(entry, verbs), entry.attempts, entry.failures
    if entry.due:
        status.due.CopyFrom(timestamp(entry.due))
    status.awaits.extend(entry.awaits)
