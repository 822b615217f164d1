"""The running of one session's turns, from the start that is counted to what memory makes of the end."""

import asyncio
from collections.abc import Callable
from enum import Enum, auto

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.chassis.errors import Internal
from troupe.chassis.ledger import Ledger
from troupe.chassis.wire import seconds
from troupe.dataplane.actors.attempt import AttemptEvents
from troupe.dataplane.actors.memory import SessionMemory
from troupe.dataplane.actors.outcome import Outcome, Skipped, attempt
from troupe.dataplane.actors.settle import Conflict, Outlook, Retrying, Settled, settle
from troupe.dataplane.actors.turn import Turn
from troupe.dataplane.actors.world import World
from troupe.dataplane.state.port import Marked, Owner, Record
from troupe.dataplane.state.rules import REDRIVABLE
from troupe.v1 import turn_pb2
from troupe.v1.envelope_pb2 import Envelope

LONG_TURN = 60.0
"""Seconds after which a running turn's message is written to the inbox too, so that no delivery stays unacked."""


class Afterwards(Enum):
    """How memory stands once a turn is over."""

    CURRENT = auto()
    STALE = auto()
    """The store has something else: the session is to be loaded again."""


class TurnRunner:
    """Of one session. It changes memory as the store was changed, without a pause in between."""

    def __init__(self, key: SessionKey, owner: Owner, world: World, memory: SessionMemory) -> None:
        self._key, self._owner, self._world, self._memory = key, owner, world, memory
        self._ledgers: dict[Number, tuple[Ledger, float]] = {}

    async def run(self, turn: Turn, on_long: Callable[[], object]) -> Afterwards:
        """Bring one message to its end, or to its next attempt. `on_long` is called when the attempt has taken
        LONG_TURN. Raises Fenced when another owns the session's shard; other errors are defects of the runtime."""
        if turn.waiting and not turn.entry.skip:
            try:
                await self._begin_counted(turn)
            except (KeyError, Marked):
                # A write of before, carried out late, was faster.
                return Afterwards.STALE
        with self._world.hub.log(self._key, turn.message_id, runs=True) as message_log:
            events = AttemptEvents(
                message_log,
                self._key.ref(),
                turn.message_id,
                self._owner.epoch,
                turn.attempt,
                self._world.clock,
                turn.entry.digest,
            )
            try:
                outcome = await self._outcome(turn, events, on_long)
                outlook = await settle(self._world, self._owner, self._key, turn, outcome, self._memory.loaded, events)
            except Exception:
                if turn.began:
                    events.sealed(
                        Internal("WORKER_FAILED", "the worker could not go on; the message comes again"), None
                    )
                raise
            finally:
                events.close()
        return self._follow_up(turn, outlook)

    async def _begin_counted(self, turn: Turn) -> None:
        """Every start from the inbox is counted before it runs, so that what kills its worker is found out."""
        world, entry = self._world, turn.entry
        began = world.clock.monotonic()
        found = await world.persist("start", lambda: world.store.begin(self._owner, self._key, entry))
        turn.envelope, turn.journal = Envelope.FromString(found.envelope), dict(found.journal)
        now = world.clock.now()
        turn.ledger, turn.published = self._ledgers.pop(entry.number, (Ledger(), 0.0))
        if not turn.published:
            turn.published = began - max(0.0, now - seconds(turn.envelope.first_sent))
            turn.ledger.add(turn_pb2.LEDGER_CAUSE_BROKER_WAIT, turn.published, began - (now - entry.placed))
        turn.ledger.add(turn_pb2.LEDGER_CAUSE_MAILBOX_WAIT, began - (now - entry.placed), began)
        turn.ledger.add(turn_pb2.LEDGER_CAUSE_STATE_STORE, began, world.clock.monotonic())
        self._memory.begin(entry)

    async def _outcome(self, turn: Turn, events: AttemptEvents, on_long: Callable[[], object]) -> Outcome:
        record = await self._record(turn)
        if turn.entry.skip or (record is not None and not (turn.entry.redriven and record.fate in REDRIVABLE)):
            return Skipped(record)
        turn.cancelled = turn.cancelled or self._memory.is_cancelled(turn.message_id)
        long_turn = asyncio.get_running_loop().call_later(LONG_TURN, on_long)
        try:
            return await attempt(
                self._world,
                self._owner,
                self._key,
                turn,
                state=self._memory.loaded.state,
                history=self._memory.loaded.history,
                events=events,
            )
        finally:
            long_turn.cancel()

    def _follow_up(self, turn: Turn, outlook: Outlook) -> Afterwards:
        """Bring memory up to what the store now has."""
        match outlook:
            case Settled(version, recorded, state, delta, sent):
                self._memory.settle(turn.number)
                self._ledgers.pop(turn.number, None)
                if recorded:
                    self._memory.record(turn.message_id)
                self._memory.turn_over(version, state, delta, sent, self._world.clock.now())
            case Retrying(entry):
                self._ledgers[entry.number] = (turn.ledger, turn.published)
                self._memory.put_first(entry)
            case Conflict():
                return Afterwards.STALE
        return Afterwards.CURRENT

    async def _record(self, turn: Turn) -> Record | None:
        if not self._memory.may_have_record(turn.message_id):
            return None
        return await self._world.persist("look-up", lambda: self._world.store.record(self._key, turn.message_id))
