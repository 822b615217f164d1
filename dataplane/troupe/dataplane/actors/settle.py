"""What follows from the way an attempt ended: a commit, a retry, a dead letter, and the event that says so."""

import asyncio
import contextlib
import math
from dataclasses import dataclass, replace
from typing import Final

import structlog

from troupe.broker.addressing import SessionKey
from troupe.broker.metrics import bounded
from troupe.broker.port import DeadLetter
from troupe.broker.retry import RetryPolicy
from troupe.chassis.errors import Aborted, TroupeError
from troupe.chassis.ids import uuid7
from troupe.chassis.wire import seconds, timestamp
from troupe.dataplane.actors import metrics
from troupe.dataplane.actors.behaviour import Behaviour, NotCompensated, TurnResult
from troupe.dataplane.actors.compensation import compensate
from troupe.dataplane.actors.endings import cancelled_record, refused, stored
from troupe.dataplane.actors.letters import letter_of
from troupe.dataplane.actors.outbox import outgoing
from troupe.dataplane.actors.outcome import (
    CalledOff,
    Cancelled,
    Done,
    Expired,
    Failed,
    Outcome,
    Overtaken,
    Skipped,
    Suspended,
)
from troupe.dataplane.actors.outlook import Conflict, Outlook, Resting, Resumed, Retrying, Settled
from troupe.dataplane.actors.progress import BROKER, STORE
from troupe.dataplane.actors.reminders import reminders
from troupe.dataplane.actors.turn import Turn
from troupe.dataplane.actors.world import Ending, World
from troupe.dataplane.state.errors import CancelRecorded, PauseRecorded, VersionConflict
from troupe.dataplane.state.port import Companion, TurnCommit
from troupe.dataplane.state.session import Entry, Loaded, Owner, Record
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import MessageStatus
from troupe.v1.envelope_pb2 import Content
from troupe.v1.turn_pb2 import Completed, Fate
from troupe.v1.turn_pb2 import Failed as FailedEvent

log = structlog.get_logger()


async def settle(world: World, owner: Owner, key: SessionKey, turn: Turn, outcome: Outcome, loaded: Loaded) -> Outlook:
    """Make `outcome` durable and show it. Raises Fenced when another owns the session's shard."""
    settling = _Settling(world, owner, key, turn, loaded)
    if turn.batch:
        return await _ended_together(settling, outcome)
    try:
        try:
            return await _ended(settling, outcome)
        except VersionConflict:
            return await settling.conflict()
        except PauseRecorded:
            return await settling.suspended(())
    except CancelRecorded as cancel:
        turn.cancel(kill=cancel.kill)
        return await settling.cancelled()


async def _ended_together(settling: "_Settling", outcome: Outcome) -> Settled | Conflict:
    """All messages of a batch, or each by itself, in another attempt: none is to suffer for another."""
    try:
        if isinstance(outcome, Done):
            return await settling.done(outcome)
        error = outcome.error if isinstance(outcome, Failed) else None
    except (VersionConflict, PauseRecorded, CancelRecorded):
        error = None
    return await settling.part(error)


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
        case Suspended(awaits):
            return await settling.suspended(awaits)
        case Skipped(record):
            return await settling.skipped(record)
        case Overtaken():
            return await settling.conflict()
        case CalledOff():
            return await settling.called_off()


_PARTED: Final = Aborted("BATCH_PARTED", "the batch did not end as one; each of its messages is tried by itself")


@dataclass(slots=True)
class _Settling:
    world: World
    owner: Owner
    key: SessionKey
    turn: Turn
    loaded: Loaded

    async def done(self, done: Done) -> Settled:
        result, behaviour, turns = done.result, done.behaviour, self.turn.all
        version, now = self.loaded.version + 1, self.world.clock.now()
        for other in self.turn.batch:
            other.ledger.share(self.turn.ledger, self.turn.gathered)
        statuses = [self._done(turn, reply, version) for turn, reply in zip(turns, _replies(result), strict=True)]
        if result.usage is not None:
            statuses[0].usage.CopyFrom(result.usage)
        sent = outgoing(
            self.key,
            self.turn.envelope,
            result.sends,
            self.loaded,
            generation=behaviour.generation,
            carrier=done.carrier,
            now=now,
            new_stream=uuid7,
        )
        remind = reminders(self.key, self.turn.envelope, result.remind, generation=behaviour.generation, new_id=uuid7)
        records = [self._record(turn, status) for turn, status in zip(turns, statuses, strict=True)]
        commit = TurnCommit(
            key=self.key,
            number=self.turn.number,
            message_id=self.turn.message_id,
            record=records[0],
            version=self.loaded.version,
            attempt=self.turn.attempt,
            now=now,
            state=result.state,
            history=result.delta,
            snapshot=result.snapshot,
            usage=None if result.session_usage is None else result.session_usage.SerializeToString(),
            outbox=sent,
            companions=[
                Companion(turn.number, turn.message_id, turn.attempt, record)
                for turn, record in zip(turns[1:], records[1:], strict=True)
            ],
            remind=remind,
            forget_reminders=result.forget_reminders,
            retention=behaviour.retention,
        )
        version = await self._commit(commit)
        for turn, status in zip(turns, statuses, strict=True):
            self._show_done(turn, status, version, behaviour.generation)
        for reminder in remind:
            self.world.scheduled(self.owner, reminder.due)
        return Settled(
            version, recorded=True, grows=1, state=result.state, delta=result.delta, snapshot=result.snapshot, sent=sent
        )

    def _done(self, turn: Turn, reply: Content, version: int) -> MessageStatus:
        status = self._status(turn, turn_pb2.FATE_DONE)
        status.result.CopyFrom(reply)
        status.state_version = version
        return status

    def _show_done(self, turn: Turn, status: MessageStatus, version: int, generation: int) -> None:
        ledger = self._ledger(turn)
        turn.events.completed(Completed(result=status.result, usage=status.usage, ledger=ledger, state_version=version))
        latency = seconds(ledger.wall)
        metrics.TURN_LATENCY.observe(latency)
        self.world.ended(Ending(generation, hopeless=False, latency=latency))
        for row in ledger.rows:
            metrics.turn_time(self.key.agent, row.cause).inc(seconds(row.duration))
        metrics.turn_time(self.key.agent, turn_pb2.LEDGER_CAUSE_UNSPECIFIED).inc(seconds(ledger.residual))

    async def part(self, error: TroupeError | None) -> Conflict:
        """Each message of the batch waits by itself from now on, as one that began. What was cancelled stays as it is:
        its own turn settles it."""

        async def put_back(turn: Turn) -> None:
            with contextlib.suppress(CancelRecorded):
                await self._put_back(turn, self._again(turn))
            turn.events.sealed(error or _PARTED, None)

        # Each goes to the head, so the last is put back first.
        await asyncio.gather(*map(put_back, reversed(self.turn.all)))
        return Conflict()

    async def failed(self, failed: Failed) -> Outlook:
        error, turn = failed.error, self.turn
        policy = failed.behaviour.retry if failed.behaviour else RetryPolicy()
        failures, now = turn.entry.failures + 1, self.world.clock.now()
        retry_at = (
            policy.retry_at(failures, now, self.world.dice(), _until(turn, now), error.retry_after)
            if error.retryable
            else None
        )
        if retry_at is None:
            return await self.give_up(turn_pb2.FATE_DEAD, error, failed.behaviour)
        entry = self._again(turn, failed=now, not_before=retry_at)
        await self._put_back(turn, entry)
        self.turn.events.sealed(error, retry_at)
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
        turn = self.turn
        letter = await self._dead_letter(error, behaviour)
        status = self._status(turn, fate)
        status.failures += behaviour is not None
        status.error.CopyFrom(error.detail())
        version = await self._commit(self._commit_of(self._record(turn, status)))
        self.turn.events.failed(FailedEvent(fate=fate, error=status.error, ledger=self._ledger(self.turn)))
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

    async def suspended(self, awaits: tuple[str, ...]) -> Resting | Resumed:
        entry = self._again(self.turn, awaits=awaits, suspended=self.world.clock.now())
        body = self.turn.envelope.SerializeToString()
        if not await self.world.persist(
            "suspension", lambda: self.world.store.suspend(self.owner, self.key, entry, body, runs=True)
        ):
            return Resumed()
        self.turn.events.suspended(self.turn.promises[promise_id] for promise_id in awaits)
        return Resting(entry)

    async def cancelled(self) -> Settled | Conflict:
        turn, said = self.turn, "the message was cancelled"
        try:
            if not await compensate(self.world, self.owner, self.key, turn, self.loaded):
                return Conflict()
        except NotCompensated as failed:
            await self._dead_letter(failed, self.world.behaviour(self.key))
            said = str(failed)
        record = cancelled_record(
            self.key, turn.message_id, turn.entry.digest, turn.attempts, self.world.clock.now(), said
        )
        version = await self._commit(self._commit_of(record))
        error = MessageStatus.FromString(record.status).error
        self.turn.events.failed(FailedEvent(fate=record.fate, error=error, ledger=self._ledger(self.turn)))
        return Settled(version, recorded=True)

    async def skipped(self, record: Record | None) -> Settled:
        """Settle the number alone, and give a copy's sender the stored end of the message, where that is one."""
        version = await self._commit(self._commit_of(None))
        if record is not None and record.digest != self.turn.entry.digest:
            self.turn.events.failed(refused(self.turn.message_id), only=self.turn.number)
        elif record is not None and not record.redriven:
            match stored(MessageStatus.FromString(record.status)):
                case Completed() as completed:
                    self.turn.events.completed(completed)
                case FailedEvent() as failed:
                    self.turn.events.failed(failed)
        return Settled(version, recorded=False)

    async def conflict(self) -> Conflict:
        await self._put_back(self.turn, self._again(self.turn))
        return Conflict()

    async def called_off(self) -> Conflict:
        """Nothing of it has begun: it waits as it did, and a start that was counted is taken back."""
        turn = self.turn
        if turn.waiting:
            await self._put_back(turn, replace(turn.entry, attempts=turn.attempt + 1, running=None))
        else:
            body = turn.envelope.SerializeToString()
            await self.world.persist("inbox", lambda: self.world.store.put(self.owner, self.key, turn.entry, body))
        return Conflict()

    def _again(
        self,
        turn: Turn,
        *,
        failed: float | None = None,
        not_before: float = 0.0,
        awaits: tuple[str, ...] = (),
        suspended: float = 0.0,
    ) -> Entry:
        """How the message waits after this attempt, which `failed` then, if it did."""
        entry = turn.entry
        return replace(
            entry,
            attempts=turn.attempt + 1,
            failures=entry.failures + (failed is not None),
            first_failed=entry.first_failed or failed or 0.0,
            starts=0,
            running=None,
            not_before=not_before,
            awaits=awaits,
            suspended=suspended,
        )

    async def _put_back(self, turn: Turn, entry: Entry) -> None:
        body = turn.envelope.SerializeToString()
        await self.world.persist("retry", lambda: self.world.store.retry(self.owner, self.key, entry, body))

    async def _dead_letter(self, error: TroupeError, behaviour: Behaviour | None) -> DeadLetter:
        turn, now = self.turn, self.world.clock.now()
        letter = letter_of(self.key, turn, error, worker_id=self.world.worker_id, behaviour=behaviour, now=now)
        turn.waits_for = BROKER
        await self.world.persist("dead letter", lambda: self.world.broker.dead_letter(letter))
        turn.waits_for = STORE
        return letter

    def _commit_of(self, record: Record | None) -> TurnCommit:
        return TurnCommit(
            key=self.key,
            number=self.turn.number,
            message_id=self.turn.message_id,
            record=record,
            version=self.loaded.version,
            attempt=self.turn.attempt,
            now=self.world.clock.now(),
        )

    async def _commit(self, commit: TurnCommit) -> int:
        began = self.world.clock.monotonic()
        version = await self.world.persist("commit", lambda: self.world.store.commit(self.owner, commit))
        ended = self.world.clock.monotonic()
        self.world.patience.committed(ended - began)
        for turn in self.turn.all:
            turn.ledger.add(turn_pb2.LEDGER_CAUSE_STATE_STORE, began, ended)
        fate = turn_pb2.FATE_SKIPPED if commit.record is None else commit.record.fate
        metrics.turns(fate).inc(1 + len(commit.companions))
        return version

    def _status(self, turn: Turn, fate: Fate.ValueType) -> MessageStatus:
        return MessageStatus(
            session=self.key.ref(),
            message_id=turn.message_id,
            fate=fate,
            ledger=self._ledger(turn),
            attempts=turn.attempts,
            failures=turn.entry.failures,
            settled_at=timestamp(self.world.clock.now()),
        )

    def _record(self, turn: Turn, status: MessageStatus) -> Record:
        return Record(status.fate, status.SerializeToString(), turn.entry.digest)

    def _ledger(self, turn: Turn) -> turn_pb2.Ledger:
        return turn.ledger.split(turn.published, self.world.clock.monotonic())


def _until(turn: Turn, now: float) -> float:
    """When the message is no longer good for another try. One that began in time and waited since, for a promise or
    RESUME, is as good as any."""
    return turn.expires if turn.expires > now else math.inf


def _replies(result: TurnResult) -> list[Content]:
    return [result.reply, *result.replies]
