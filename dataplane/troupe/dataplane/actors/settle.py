"""What follows from the way an attempt ended: a commit, a retry, a dead letter, and the event that says so."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog
from opentelemetry import trace

from troupe.broker.addressing import SessionKey
from troupe.broker.metrics import bounded
from troupe.broker.port import DeadLetter
from troupe.broker.retry import RetryPolicy
from troupe.chassis.errors import AlreadyExists, TroupeError
from troupe.chassis.ids import uuid7
from troupe.chassis.wire import timestamp
from troupe.dataplane.actors import metrics
from troupe.dataplane.actors.attempt import AttemptEvents
from troupe.dataplane.actors.behaviour import Behaviour
from troupe.dataplane.actors.outbox import outgoing
from troupe.dataplane.actors.outcome import CalledOff, Cancelled, Done, Expired, Failed, Outcome, Overtaken, Skipped
from troupe.dataplane.actors.turn import Turn
from troupe.dataplane.actors.world import Ending, World
from troupe.dataplane.state.port import (
    CancelRecorded,
    Entry,
    Loaded,
    Outgoing,
    Owner,
    Record,
    TurnCommit,
    VersionConflict,
)
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import MessageStatus
from troupe.v1.turn_pb2 import Completed, Fate, LedgerCause
from troupe.v1.turn_pb2 import Failed as FailedEvent

POOL = "agents"
MESSAGE_ID_USED = "MESSAGE_ID_USED"
"""Reason of the error that a copy with another payload is answered with."""
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Settled:
    """The number is settled; what changed with it."""

    version: int
    recorded: bool
    state: bytes | None = None
    delta: bytes | None = None
    sent: Sequence[Outgoing] = ()


@dataclass(frozen=True, slots=True)
class Retrying:
    """The message stands at the head of the inbox."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Conflict:
    """Memory is not what the store has: load it again. The message stands in the inbox."""


Outlook = Settled | Retrying | Conflict


async def settle(
    world: World,
    owner: Owner,
    key: SessionKey,
    turn: Turn,
    outcome: Outcome,
    loaded: Loaded,
    events: AttemptEvents,
) -> Outlook:
    """Make `outcome` durable and show it. Raises Fenced when another owns the session's shard."""
    settling = _Settling(world, owner, key, turn, loaded, events)
    try:
        try:
            return await _ended(settling, outcome)
        except VersionConflict:
            return await settling.conflict()
    except CancelRecorded:
        return await settling.cancelled()


async def _ended(settling: "_Settling", outcome: Outcome) -> Outlook:
    match outcome:
        case Done():
            return await settling.done(outcome)
        case Failed():
            return await settling.failed(outcome)
        case Expired(error):
            return await settling.give_up(turn_pb2.FATE_EXPIRED, error, None)
        case Cancelled():
            return await settling.cancelled()
        case Skipped(record):
            return await settling.skipped(record)
        case Overtaken():
            return await settling.conflict()
        case CalledOff():
            return await settling.called_off()


def refused(message_id: str) -> FailedEvent:
    """The answer to a copy with another payload, as an event."""
    return FailedEvent(fate=turn_pb2.FATE_SKIPPED, error=message_id_used(message_id).detail())


def message_id_used(message_id: str) -> AlreadyExists:
    """The same, as an error."""
    return AlreadyExists(
        MESSAGE_ID_USED,
        f"message id {message_id} was used for other content in this session; choose another id",
        metadata={"source": "turn"},
    )


def stored(status: MessageStatus) -> Completed | FailedEvent:
    """The last event of a message that was settled before."""
    if status.fate == turn_pb2.FATE_DONE:
        return Completed(
            result=status.result,
            usage=status.usage,
            ledger=status.ledger,
            state_version=status.state_version,
            stored=True,
        )
    return FailedEvent(fate=status.fate, error=status.error, ledger=status.ledger, stored=True)


def cancelled_record(key: SessionKey, message_id: str, digest: bytes, attempts: int, now: float) -> Record:
    """How a cancelled message ends."""
    status = MessageStatus(
        session=key.ref(),
        message_id=message_id,
        fate=turn_pb2.FATE_CANCELLED,
        error=CancelRecorded("CANCELLED", "the message was cancelled").detail(),
        attempts=attempts,
        settled_at=timestamp(now),
    )
    return Record(status.fate, status.SerializeToString(), digest)


@dataclass(slots=True)
class _Settling:
    world: World
    owner: Owner
    key: SessionKey
    turn: Turn
    loaded: Loaded
    events: AttemptEvents

    async def done(self, done: Done) -> Settled:
        result, version = done.result, self.loaded.version
        status = self._status(turn_pb2.FATE_DONE)
        status.result.CopyFrom(result.reply)
        status.state_version = version + 1
        if result.usage is not None:
            status.usage.CopyFrom(result.usage)
        sent = outgoing(
            self.key,
            self.turn.envelope,
            result.sends,
            self.loaded,
            generation=done.behaviour.generation,
            carrier=done.carrier,
            now=self.world.clock.now(),
            new_stream=uuid7,
        )
        version = await self._commit(
            self._record(status),
            state=result.state,
            delta=result.delta,
            sent=sent,
            usage=None if result.session_usage is None else result.session_usage.SerializeToString(),
        )
        ledger = self._ledger()
        self.events.completed(Completed(result=result.reply, usage=status.usage, ledger=ledger, state_version=version))
        latency = ledger.wall.ToNanoseconds() / 1e9
        metrics.TURN_LATENCY.observe(latency)
        self.world.ended(Ending(done.behaviour.generation, hopeless=False, latency=latency))
        for row in ledger.rows:
            cause = LedgerCause.Name(row.cause).removeprefix("LEDGER_CAUSE_").lower()
            metrics.TURN_TIME.labels(self.key.agent, cause).inc(row.duration.ToNanoseconds() / 1e9)
        metrics.TURN_TIME.labels(self.key.agent, "residual").inc(ledger.residual.ToNanoseconds() / 1e9)
        return Settled(version, recorded=True, state=result.state, delta=result.delta, sent=sent)

    async def failed(self, failed: Failed) -> Outlook:
        error, turn = failed.error, self.turn
        policy = failed.behaviour.retry if failed.behaviour else RetryPolicy()
        failures, now = turn.entry.failures + 1, self.world.clock.now()
        retry_at = (
            policy.retry_at(failures, now, self.world.dice(), turn.expires or float("inf"), error.retry_after)
            if error.retryable
            else None
        )
        if retry_at is None:
            return await self.give_up(turn_pb2.FATE_DEAD, error, failed.behaviour)
        entry = self._again(failures=failures, not_before=retry_at, first_failed=turn.entry.first_failed or now)
        await self._put_back(entry)
        self.events.sealed(error, retry_at)
        metrics.RETRIES.labels(bounded(error.reason), str(min(turn.attempt, metrics.MAX_ATTEMPTS))).inc()
        log.info(
            "turn failed, trying again",
            agent=self.key.agent,
            session=self.key.session,
            attempt=turn.attempt,
            reason=error.reason,
            error=str(error),
            in_seconds=round(retry_at - now, 3),
        )
        return Retrying(entry)

    async def give_up(self, fate: Fate.ValueType, error: TroupeError, behaviour: Behaviour | None) -> Settled:
        """A dead letter, confirmed; then the record; then (by the caller) the ack. In that order."""
        turn, now = self.turn, self.world.clock.now()
        letter = DeadLetter(
            id=uuid7(),
            body=turn.envelope.SerializeToString(),
            pool=POOL,
            message_id=turn.message_id,
            session=self.key.path,
            reason=error.reason,
            error=str(error),
            attempts=turn.attempts,
            first_failed=turn.entry.first_failed or now,
            last_failed=now,
            worker_id=self.world.worker_id,
            revision_id=behaviour.revision_id if behaviour else "",
            trace_id=turn.envelope.traceparent[3:35]
            or format(trace.get_current_span().get_span_context().trace_id, "032x"),
        )
        await self.world.persist("dead letter", lambda: self.world.broker.dead_letter(letter))
        status = self._status(fate)
        status.error.CopyFrom(error.detail())
        version = await self._commit(self._record(status))
        self.events.failed(FailedEvent(fate=fate, error=status.error, ledger=self._ledger()))
        generation = behaviour.generation if behaviour else 0
        self.world.ended(Ending(generation, hopeless=not error.retryable, latency=None))
        log.warning(
            "message given up",
            agent=self.key.agent,
            session=self.key.session,
            message=turn.message_id,
            reason=error.reason,
            error=str(error),
            attempts=letter.attempts,
        )
        return Settled(version, recorded=True)

    async def cancelled(self) -> Settled:
        record = cancelled_record(
            self.key, self.turn.message_id, self.turn.entry.digest, self.turn.attempts, self.world.clock.now()
        )
        version = await self._commit(record)
        error = MessageStatus.FromString(record.status).error
        self.events.failed(FailedEvent(fate=record.fate, error=error, ledger=self._ledger()))
        return Settled(version, recorded=True)

    async def skipped(self, record: Record | None) -> Settled:
        """Settle the number alone, and give a copy's sender the stored end of the message, where that is one."""
        version = await self._commit(None)
        if record is not None and record.digest != self.turn.entry.digest:
            self.events.failed(refused(self.turn.message_id), only=self.turn.number)
        elif record is not None and not record.redriven:
            match stored(MessageStatus.FromString(record.status)):
                case Completed() as completed:
                    self.events.completed(completed)
                case FailedEvent() as failed:
                    self.events.failed(failed)
        return Settled(version, recorded=False)

    async def conflict(self) -> Conflict:
        await self._put_back(self._again())
        return Conflict()

    async def called_off(self) -> Conflict:
        """Nothing of it has begun: it waits as it did, and a start that was counted is taken back."""
        turn = self.turn
        if turn.waiting:
            await self._put_back(replace(turn.entry, attempts=turn.attempt + 1, running=None))
        else:
            body = turn.envelope.SerializeToString()
            await self.world.persist("inbox", lambda: self.world.store.put(self.owner, self.key, turn.entry, body))
        return Conflict()

    def _again(self, **changes: float) -> Entry:
        entry = self.turn.entry
        return Entry(
            number=entry.number,
            message_id=entry.message_id,
            digest=entry.digest,
            placed=entry.placed,
            attempts=self.turn.attempt + 1,
            failures=int(changes.get("failures", entry.failures)),
            not_before=changes.get("not_before", 0.0),
            first_failed=changes.get("first_failed", entry.first_failed),
            redriven=entry.redriven,
        )

    async def _put_back(self, entry: Entry) -> None:
        body = self.turn.envelope.SerializeToString()
        await self.world.persist("retry", lambda: self.world.store.retry(self.owner, self.key, entry, body))

    async def _commit(
        self,
        record: Record | None,
        *,
        state: bytes | None = None,
        delta: bytes | None = None,
        usage: bytes | None = None,
        sent: Sequence[Outgoing] = (),
    ) -> int:
        commit = TurnCommit(
            key=self.key,
            number=self.turn.number,
            message_id=self.turn.message_id,
            record=record,
            version=self.loaded.version,
            state=state,
            history=delta,
            usage=usage,
            attempt=self.turn.attempt,
            outbox=sent,
            now=self.world.clock.now(),
        )
        began = self.world.clock.monotonic()
        version = await self.world.persist("commit", lambda: self.world.store.commit(self.owner, commit))
        self.turn.ledger.add(turn_pb2.LEDGER_CAUSE_STATE_STORE, began, self.world.clock.monotonic())
        fate = turn_pb2.FATE_SKIPPED if record is None else record.fate
        metrics.TURNS.labels(Fate.Name(fate).removeprefix("FATE_").lower()).inc()
        return version

    def _status(self, fate: Fate.ValueType) -> MessageStatus:
        return MessageStatus(
            session=self.key.ref(),
            message_id=self.turn.message_id,
            fate=fate,
            ledger=self._ledger(),
            attempts=self.turn.attempts,
            settled_at=timestamp(self.world.clock.now()),
        )

    def _record(self, status: MessageStatus) -> Record:
        return Record(status.fate, status.SerializeToString(), self.turn.entry.digest)

    def _ledger(self) -> turn_pb2.Ledger:
        return self.turn.ledger.split(self.turn.published, self.world.clock.monotonic())
