"""The running of one session's turns, from the start that is counted to what memory makes of the end."""

import asyncio
import contextlib
import functools
from collections.abc import Callable
from enum import Enum, auto

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.chassis.errors import Internal
from troupe.chassis.ledger import Ledger
from troupe.chassis.wire import seconds
from troupe.dataplane.actors.attempt import AttemptEvents
from troupe.dataplane.actors.failures import Failures
from troupe.dataplane.actors.journal import keep_unheard
from troupe.dataplane.actors.memory import SessionMemory
from troupe.dataplane.actors.outcome import Failed, Outcome, Skipped, attempt, judge
from troupe.dataplane.actors.outlook import Conflict, Outlook, Resting, Resumed, Retrying, Settled
from troupe.dataplane.actors.progress import Progress
from troupe.dataplane.actors.reminders import occurrence
from troupe.dataplane.actors.settle import settle
from troupe.dataplane.actors.turn import Turn
from troupe.dataplane.actors.world import World
from troupe.dataplane.state.errors import Marked, PauseRecorded
from troupe.dataplane.state.rules import REDRIVABLE
from troupe.dataplane.state.schedule import is_occurrence
from troupe.dataplane.state.session import Owner, Record
from troupe.v1 import turn_pb2
from troupe.v1.envelope_pb2 import Envelope

LONG_TURN = 60.0
"""Seconds after which a running turn's message is written to the inbox too, so that no delivery stays unacked."""

REFUSALS = (KeyError, Marked, PauseRecorded)
"""Of a start: a write of before, carried out late, or a verb was faster."""


class Afterwards(Enum):
    """How memory stands once a turn is over."""

    CURRENT = auto()
    STALE = auto()
    """The store has something else: the session is to be loaded again."""


class TurnRunner:
    """Of one session. It changes memory as the store was changed, without a pause in between."""

    def __init__(
        self,
        key: SessionKey,
        owner: Owner,
        world: World,
        memory: SessionMemory,
        failures: Failures,
        progress: Progress,
    ) -> None:
        self._key, self._owner, self._world, self._memory = key, owner, world, memory
        self._failures, self._progress = failures, progress
        self._ledgers: dict[Number, tuple[Ledger, float]] = {}

    async def run(self, turn: Turn, on_long: Callable[[], object]) -> Afterwards:
        """Bring one message to its end, or to its next attempt. `on_long` is called when the attempt has taken
        LONG_TURN. Raises Fenced when another owns the session's shard; other errors are defects of the runtime."""
        if turn.waiting and not (turn.entry.skip or turn.counted):
            try:
                await self._begin_counted(turn)
            except REFUSALS:
                return Afterwards.STALE
        if not turn.batch:
            with self._shown(turn):
                outlook = await self._ended(turn, on_long)
        else:
            with contextlib.ExitStack() as shown:
                for each in turn.all:
                    shown.enter_context(self._shown(each))
                outlook = await self._ended(turn, on_long)
        return self._follow_up(turn, outlook)

    async def gather(self, batch: Turn) -> list[Turn]:
        """Count the starts of all messages of a batch; the turns that are to run then, one after the other: the batch,
        or, where one of its messages is to be settled otherwise, each by itself; none when memory is stale. Raises as
        `run` does."""
        turns = batch.all
        for refusal in await asyncio.gather(*map(self._begin_counted, turns), return_exceptions=True):
            if isinstance(refusal, REFUSALS):
                return []
            if isinstance(refusal, BaseException):
                raise refusal
        now, verbs = self._world.clock.now(), self._memory.verbs
        if any(judge(turn, now) is not None or turn.message_id in verbs.cancelled for turn in turns):
            batch.batch = ()
            return turns
        batch.gathered = self._world.clock.monotonic()
        return [batch]

    def _shown(self, turn: Turn) -> "_Shown":
        return _Shown(self._world, self._owner, self._key, turn)

    async def _ended(self, turn: Turn, on_long: Callable[[], object]) -> Outlook:
        while isinstance(outlook := await self._attempt(turn, on_long), Resumed):
            await self._resume(turn)
            turn.events.next(turn.attempt)
        return outlook

    async def _begin_counted(self, turn: Turn) -> None:
        """Every start from the inbox is counted before it runs, so that what kills its worker is found out. Raises one
        of REFUSALS where memory is stale."""
        world, entry = self._world, turn.entry
        began = world.clock.monotonic()
        found = await world.persist("start", lambda: world.store.begin(self._owner, self._key, entry))
        if found.skip and not entry.skip:
            raise KeyError(entry.number)  # a verb has settled it, and nobody was told: none of its code is to run
        turn.envelope, turn.journal = Envelope.FromString(found.envelope), dict(found.journal)
        if turn.envelope.reminder:
            turn.envelope = occurrence(turn.envelope, entry)
        turn.promises = {promise.id: promise for promise in found.promises}
        now = world.clock.now()
        turn.ledger, turn.published = self._ledgers.pop(entry.number, (Ledger(), 0.0))
        if not turn.published:
            turn.published = began - max(0.0, now - seconds(turn.envelope.first_sent))
            turn.ledger.add(turn_pb2.LEDGER_CAUSE_BROKER_WAIT, turn.published, began - (now - entry.placed))
        turn.ledger.add(turn_pb2.LEDGER_CAUSE_MAILBOX_WAIT, began - (now - entry.placed), began)
        if entry.suspended:
            settled = max((each.settled for each in found.promises if each.settled >= entry.suspended), default=None)
            cause = turn_pb2.LEDGER_CAUSE_PAUSE if settled is None else turn_pb2.LEDGER_CAUSE_PROMISE
            over = now if settled is None else min(now, settled)
            turn.ledger.add(cause, began - (now - entry.suspended), began - (now - over))
        turn.ledger.add(turn_pb2.LEDGER_CAUSE_STATE_STORE, began, world.clock.monotonic())
        self._memory.begin(entry)
        turn.counted = True

    async def _attempt(self, turn: Turn, on_long: Callable[[], object]) -> Outlook:
        long_turn = asyncio.get_running_loop().call_later(LONG_TURN, on_long)
        try:
            outcome = await self._outcome(turn)
            if isinstance(outcome, Failed):
                self._failures.put(outcome.error)
                await keep_unheard(self._world, self._owner, self._key, turn)
            return await settle(self._world, self._owner, self._key, turn, outcome, self._memory.loaded)
        finally:
            long_turn.cancel()

    async def _resume(self, turn: Turn) -> None:
        """The turn that was to wait need not: its next attempt sees what its promises came to."""
        turn.goes_on()
        store = self._world.store
        for promise_id in turn.promises:
            look = functools.partial(store.promise, self._key, promise_id)
            if (promise := await self._world.persist("look-up", look)) is not None:
                turn.promises[promise_id] = promise

    async def _outcome(self, turn: Turn) -> Outcome:
        if turn.batch:
            return await attempt(self._world, self._owner, self._key, turn, self._memory.loaded)
        record = await self._record(turn)
        if turn.entry.skip or (record is not None and not (turn.entry.redriven and record.fate in REDRIVABLE)):
            return Skipped(record)
        verbs = self._memory.verbs
        if turn.message_id in verbs.cancelled:
            turn.cancel(kill=turn.message_id in verbs.killed)
        return await attempt(self._world, self._owner, self._key, turn, self._memory.loaded)

    def _follow_up(self, turn: Turn, outlook: Outlook) -> Afterwards:
        """Bring memory up to what the store now has."""
        match outlook:
            case Settled(version, recorded, grows, state, delta, snapshot, sent):
                # Where the number was settled before, by what came late, the store may have something else.
                follows = version == self._memory.loaded.version + grows
                now = self._world.clock.now()
                for each in turn.all:
                    self._progress.settled += 1
                    self._memory.settle(each.number)
                    self._ledgers.pop(each.number, None)
                    if recorded:
                        self._memory.record(each.message_id)
                self._memory.turn_over(version, state, delta, snapshot, sent, now)
                if is_occurrence(turn.number):
                    # Another may have come due meanwhile.
                    self._world.scheduled(self._owner, now)
                return Afterwards.CURRENT if follows else Afterwards.STALE
            case Retrying(entry):
                self._ledgers[entry.number] = (turn.ledger, turn.published)
                self._memory.put_first(entry)
            case Resting(entry):
                self._ledgers[entry.number] = (turn.ledger, turn.published)
                self._memory.rest(entry)
            case Conflict():
                return Afterwards.STALE
            case Resumed():
                raise ValueError("an attempt that is to begin anew has no end yet")
        return Afterwards.CURRENT

    async def _record(self, turn: Turn) -> Record | None:
        if not self._memory.may_have_record(turn.message_id):
            return None
        return await self._world.persist("look-up", lambda: self._world.store.record(self._key, turn.message_id))


class _Shown:
    """Inside, the turn's events are shown to whoever listens."""

    __slots__ = ("_key", "_owner", "_turn", "_use", "_world")

    def __init__(self, world: World, owner: Owner, key: SessionKey, turn: Turn) -> None:
        self._world, self._owner, self._key, self._turn = world, owner, key, turn

    def __enter__(self) -> None:
        turn, epoch, clock = self._turn, self._owner.epoch, self._world.clock
        self._use = self._world.hub.log(self._key, turn.message_id, runs=True)
        log, digest = self._use.__enter__(), turn.entry.digest
        turn.events = AttemptEvents(log, self._key.ref(), turn.message_id, epoch, turn.attempt, clock, digest)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        turn = self._turn
        if isinstance(error, Exception) and turn.began:
            failed = Internal("WORKER_FAILED", "the worker could not go on; the message comes again")
            turn.events.sealed(failed, None)
        turn.events.close()
        self._use.__exit__(kind, error, trace)
