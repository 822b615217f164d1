"""The protocol's rules, each with a way to switch it off: what a simulation cannot miss, it can be trusted with."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest import mock

from fault.simulation import restart_rules
from fault.simulation.redriver import Redriver
from support.fake_clock import FakeClock

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Place, Position
from troupe.chassis.errors import TroupeError
from troupe.dataplane.actors import actor, outbox
from troupe.dataplane.actors.arrivals import Arrival
from troupe.dataplane.actors.gap import GapWatch
from troupe.dataplane.actors.inbox import NO_VERBS, Choice, Inbox, Start
from troupe.dataplane.actors.intake import Intake
from troupe.dataplane.actors.lifecycle import ActorEvent
from troupe.dataplane.actors.memory import SessionMemory
from troupe.dataplane.actors.runner import TurnRunner
from troupe.dataplane.actors.turn import Turn
from troupe.dataplane.actors.world import World
from troupe.dataplane.state import promises, rules, verbs
from troupe.dataplane.state.control import Control, Promise, Settlement
from troupe.dataplane.state.memory import MemoryStateStore
from troupe.dataplane.state.memory_session import Session
from troupe.dataplane.state.port import Begun, Placed, TurnCommit
from troupe.dataplane.state.rules import Suspending
from troupe.dataplane.state.session import Entry, Outgoing, Owner, Record, Verbs
from troupe.dataplane.state.verbs import Bound, Standing
from troupe.v1 import agent_pb2, promise_pb2
from troupe.v1.promise_pb2 import SettlementAnswer


def no_fence() -> AbstractContextManager[Any]:
    """Whoever writes is taken for the owner."""
    return mock.patch.object(rules, "raises_fence", lambda owner, record, turn=None: owner.epoch > record[0])


@contextlib.contextmanager
def no_copysettle() -> Iterator[None]:
    """A message that is settled leaves its waiting copies as they are, and a copy is placed as a message."""
    with (
        mock.patch.object(rules, "is_copy", lambda entry, fate: False),
        mock.patch.object(Session, "waiting", lambda session, message_id: []),
        mock.patch.object(SessionMemory, "record", lambda self, message_id: None),
    ):
        yield


@contextlib.contextmanager
def no_settled_check_in_put() -> Iterator[None]:
    """A number that is settled may be placed again."""
    place = rules.place

    def blind(entry: Entry, position: Position, **found: Any) -> tuple[Placed, Record | None]:
        return place(entry, Position(), **found)

    with mock.patch.object(rules, "place", blind):
        yield


@contextlib.contextmanager
def no_count_of_starts() -> Iterator[None]:
    """What kills its worker is started again and again."""
    begin = MemoryStateStore.begin

    async def uncounted(self: MemoryStateStore, owner: Owner, key: SessionKey, entry: Entry) -> Begun:
        found = await begin(self, owner, key, entry)
        session = self._sessions[key]
        session.inbox[entry.number] = replace(session.inbox[entry.number], starts=1)
        return found

    with mock.patch.object(MemoryStateStore, "begin", uncounted):
        yield


def no_probe() -> AbstractContextManager[Any]:
    """A gap is passed over once the time is up."""

    async def at_once(self: GapWatch, key: SessionKey) -> bool:
        await asyncio.sleep(0)  # else whoever asks again and again would never be seen to spin
        return True

    return mock.patch.object(GapWatch, "_probe", at_once)


@contextlib.contextmanager
def no_journal_replay() -> Iterator[None]:
    """An attempt does not see what those before it did."""
    begin = MemoryStateStore.begin

    async def forgetful(self: MemoryStateStore, owner: Owner, key: SessionKey, entry: Entry) -> Begun:
        return replace(await begin(self, owner, key, entry), journal={})

    with mock.patch.object(MemoryStateStore, "begin", forgetful):
        yield


def no_cancel_check() -> AbstractContextManager[Any]:
    """The scripts of a turn do not look for a CANCEL."""
    return mock.patch.object(rules, "refuse_cancelled", lambda message_id, bound, fate: None)


def fast_path_for_redelivered() -> AbstractContextManager[Any]:
    """What was delivered before may start uncounted, and without its journal."""

    def may_start(self: actor.Actor, arrival: Arrival) -> bool:
        return not arrival.entry.due and self._memory.place(arrival.entry.number) is Place.NEXT

    return mock.patch.object(actor.Actor, "_may_start", may_start)


def no_journal_check_on_fast_path() -> AbstractContextManager[Any]:
    """A copy starts without the journal of its message."""
    return mock.patch.object(SessionMemory, "has_journal", lambda self, message_id: False)


@contextlib.contextmanager
def ack_before_commit() -> Iterator[None]:
    """A delivery is acked as soon as its turn begins."""
    begin = actor.Actor._begin

    def eager(self: actor.Actor, turn: Turn) -> None:
        begin(self, turn)
        turn.ack()

    with mock.patch.object(actor.Actor, "_begin", eager):
        yield


def no_order() -> AbstractContextManager[Any]:
    """Any message may be next."""

    def anywhere(self: Position, sequence: int) -> Place:
        return Place.SETTLED if sequence <= self.settled and sequence not in self.gaps else Place.NEXT

    def settle(self: Position, sequence: int) -> Position:
        return Position(max(sequence, self.settled), self.gaps)

    return _all(mock.patch.object(Position, "place", anywhere), mock.patch.object(Position, "settle", settle))


def no_hold_by_marks() -> AbstractContextManager[Any]:
    """What waits beside a message that may still run elsewhere is started."""
    choose = Inbox.choose

    def blind(self: Inbox, now: float, verbs: Verbs = NO_VERBS) -> Choice:
        for entry in self:
            if not entry.running and self.place(entry.number) is Place.NEXT and entry.not_before <= now:
                return Start(entry)
        return choose(self, now, verbs)

    return mock.patch.object(Inbox, "choose", blind)


def no_end_by_take_over() -> AbstractContextManager[Any]:
    """The writes of a turn are let through whoever has taken its message over."""

    def lenient(owner: Owner, record: tuple[int, str], turn: Entry | None = None) -> bool:
        return turn is None and raises_fence(owner, record, turn)

    raises_fence = rules.raises_fence
    return mock.patch.object(rules, "raises_fence", lenient)


def no_writing_down() -> AbstractContextManager[Any]:
    """A shard is handed over with everything acked and nothing written."""

    async def hasty(self: actor.Actor) -> None:
        self._move(ActorEvent.DRAIN)
        for arrival in self.arrivals():
            arrival.delivery.ack()
        if self.turn is not None:
            self.turn.ack()

    return mock.patch.object(actor.Actor, "hand_over", hasty)


def no_marks_at_handover() -> AbstractContextManager[Any]:
    """What runs when a shard is handed over is written down as if it had not started, and goes on."""
    write_down = Intake.write_down

    async def unmarked(self: Intake, turn: Turn) -> None:
        put = self._world.store.put

        async def plain(owner: Owner, key: SessionKey, entry: Entry, envelope: bytes, *, busy: bool = False) -> Placed:
            return await put(owner, key, replace(entry, running=None), envelope, busy=busy)

        with mock.patch.object(self._world.store, "put", plain):
            await write_down(self, turn)

    return mock.patch.object(Intake, "write_down", unmarked)


@contextlib.contextmanager
def no_outbox_in_the_commit() -> Iterator[None]:
    """What a turn sends is only in memory when it is committed."""
    commit = MemoryStateStore.commit

    async def without(self: MemoryStateStore, owner: Owner, turn: TurnCommit) -> int:
        return await commit(self, owner, replace(turn, outbox=()))

    with mock.patch.object(MemoryStateStore, "commit", without):
        yield


def no_wait_for_confirms() -> AbstractContextManager[Any]:
    """What was sent is struck whether the broker has it or not."""
    publish = outbox._publish

    async def careless(world: World, messages: Sequence[Outgoing]) -> Sequence[TroupeError | None]:
        return [None for _ in await publish(world, messages)]

    return mock.patch.object(outbox, "_publish", careless)


def no_outbox_in_the_index() -> AbstractContextManager[Any]:
    """A new owner, and the sweep, look for inboxes only."""
    return mock.patch.object(Session, "is_due", property(lambda session: bool(session.inbox)))


def no_memory_of_streams() -> AbstractContextManager[Any]:
    """Numbers are given out from what was loaded, whatever was sent since."""
    turn_over = SessionMemory.turn_over

    def forgetful(self: SessionMemory, *arguments: Any) -> None:
        before = dict(self._sent)
        turn_over(self, *arguments)
        self._sent.clear()
        self._sent.update(before)

    return mock.patch.object(SessionMemory, "turn_over", forgetful)


def fast_path_for_redriven() -> AbstractContextManager[Any]:
    """What comes from a dead letter may start without its journal."""

    def may_start(self: actor.Actor, arrival: Arrival) -> bool:
        place = self._memory.place(arrival.entry.number)
        return arrival.delivery.redeliveries == 0 and not arrival.entry.due and place is Place.NEXT

    return mock.patch.object(actor.Actor, "_may_start", may_start)


@contextlib.contextmanager
def no_end_for_redriven() -> Iterator[None]:
    """A second copy of a dead letter runs whatever became of the first."""
    record = TurnRunner._record

    async def blind(self: TurnRunner, turn: Turn) -> Record | None:
        return None if turn.entry.redriven else await record(self, turn)

    is_copy = rules.is_copy
    with (
        mock.patch.object(TurnRunner, "_record", blind),
        mock.patch.object(rules, "is_copy", lambda entry, fate: not entry.redriven and is_copy(entry, fate)),
    ):
        yield


def no_redriven_copy_beside_an_end() -> AbstractContextManager[Any]:
    """Whoever hears of an end takes what waits under its id for copies from before."""

    def record(self: SessionMemory, message_id: str) -> None:
        self._recorded.add(message_id)
        for entry in self.inbox.of(message_id):
            self.inbox.replace(replace(entry, skip=True))

    return mock.patch.object(SessionMemory, "record", record)


def no_look_whether_it_came_again() -> AbstractContextManager[Any]:
    """A letter is redriven while the end that it tells of is not on record, only one before."""

    async def over(*_: object) -> bool:
        return False

    return mock.patch.object(Redriver, "_lives", over)


def no_pause_check() -> AbstractContextManager[Any]:
    """The scripts of a turn do not look for a PAUSE."""
    return mock.patch.object(rules, "refuse_paused", lambda message_id, bound: None)


def suspending_without_a_look() -> AbstractContextManager[Any]:
    """A turn waits, whether the promise is settled or the PAUSE lifted meanwhile or not."""
    suspending = rules.suspending

    def blind(entry: Entry, found: rules.Found, *, pending: bool, runs: bool) -> Suspending:
        outlook = suspending(entry, found, pending=pending, runs=runs)
        return Suspending.PLACED if outlook in (Suspending.GOES_ON, Suspending.RUNS_ON) else outlook

    return mock.patch.object(rules, "suspending", blind)


def no_reset_of_starts() -> AbstractContextManager[Any]:
    """Starts that ended in a wait are held against their message."""
    return mock.patch.object(rules, "suspended", lambda entry: replace(entry, starts=entry.attempts, running=None))


def no_names_of_pauses() -> AbstractContextManager[Any]:
    """A PAUSE holds whether the RESUME that names it came first or not."""
    answer = verbs.verb_answer

    def blind(control: Control, found: Standing) -> int:
        return answer(control, replace(found, lifted=False))

    return mock.patch.object(verbs, "verb_answer", blind)


def no_ids_of_verbs() -> AbstractContextManager[Any]:
    """A verb that is repeated is a new one."""
    control = MemoryStateStore.control

    async def repeated(self: MemoryStateStore, key: SessionKey, verb: Control) -> int:
        session = self._sessions.get(key)
        recorded = session.verbs.get(verb.message_id, {}) if session is not None else {}
        before = recorded.pop(verb.verb_id, None)
        answer = await control(self, key, verb)
        if before is not None and before.binds and verb.verb != agent_pb2.VERB_PAUSE:
            recorded[verb.verb_id] = before
        return answer

    return mock.patch.object(MemoryStateStore, "control", repeated)


def no_kill_that_stays() -> AbstractContextManager[Any]:
    """A CANCEL after a KILL brings compensations back."""
    bound = Session.bound

    def newest(self: Session, message_id: str) -> Bound:
        binding = [kept.verb for kept in self.verbs.get(message_id, {}).values() if kept.binds]
        return replace(bound(self, message_id), killed=bool(binding) and binding[-1] == agent_pb2.VERB_KILL)

    return mock.patch.object(Session, "bound", newest)


def no_first_settlement() -> AbstractContextManager[Any]:
    """Whoever settles a promise last wins."""
    settled = promises.settled

    def last(promise: Promise, settlement: Settlement, now: float) -> tuple[SettlementAnswer.ValueType, Promise]:
        return settled(replace(promise, state=promise_pb2.PROMISE_STATE_OPEN), settlement, now)

    return mock.patch.object(promises, "settled", last)


def no_ids_of_settlements() -> AbstractContextManager[Any]:
    """A settlement that is repeated is taken for another's."""
    settled = promises.settled

    def anonymous(promise: Promise, settlement: Settlement, now: float) -> tuple[SettlementAnswer.ValueType, Promise]:
        return settled(replace(promise, settlement_id=""), settlement, now)

    return mock.patch.object(promises, "settled", anonymous)


def no_withdrawing() -> AbstractContextManager[Any]:
    """The promises of a message that is settled for good stay open."""
    return mock.patch.object(promises, "withdrawn", lambda promise, now: promise)


def no_waking() -> AbstractContextManager[Any]:
    """A promise that is settled leaves what waits for it as it is."""
    return mock.patch.object(promises, "woken", lambda entry, ended: entry)


def due_by_the_workers_clock() -> AbstractContextManager[Any]:
    """Whether a message is due is judged by the clock of the worker that places it."""
    put = MemoryStateStore.put

    async def skewed(
        self: MemoryStateStore, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes, *, busy: bool = False
    ) -> Placed:
        clock, self._clock = self._clock, FakeClock(now=entry.placed)
        try:
            return await put(self, owner, key, entry, envelope, busy=busy)
        finally:
            self._clock = clock

    return mock.patch.object(MemoryStateStore, "put", skewed)


@contextlib.contextmanager
def _all(*patches: AbstractContextManager[Any]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


OFF: Mapping[str, Callable[[], AbstractContextManager[Any]]] = {
    "fence": no_fence,
    "copies are settled with their message": no_copysettle,
    "settled numbers are not placed": no_settled_check_in_put,
    "starts are counted": no_count_of_starts,
    "probe before passing over": no_probe,
    "journal is replayed": no_journal_replay,
    "cancel is checked by the scripts": no_cancel_check,
    "fast path only for what was never delivered": fast_path_for_redelivered,
    "fast path only without a journal": no_journal_check_on_fast_path,
    "order in streams": no_order,
    "acks follow commits": ack_before_commit,
    "a mark holds its session": no_hold_by_marks,
    "a take-over ends the turn before": no_end_by_take_over,
    "a handover writes down before it acks": no_writing_down,
    "what runs at a handover is marked": no_marks_at_handover,
    "the outbox is committed with the turn": no_outbox_in_the_commit,
    "the outbox is struck after the confirm": no_wait_for_confirms,
    "a new owner finds outboxes": no_outbox_in_the_index,
    "numbers go on from what was sent": no_memory_of_streams,
    "redriven copies start from the inbox": fast_path_for_redriven,
    "a redriven copy looks at the end of the one before": no_end_for_redriven,
    "a redriven copy stands beside the end of the one before": no_redriven_copy_beside_an_end,
    "a letter is redriven when its end is on record": no_look_whether_it_came_again,
    "a PAUSE is checked by the scripts": no_pause_check,
    "suspending looks whether it must": suspending_without_a_look,
    "a wait is an end for the count of starts": no_reset_of_starts,
    "a RESUME names its PAUSE": no_names_of_pauses,
    "a verb has an id": no_ids_of_verbs,
    "a KILL stays a KILL": no_kill_that_stays,
    "the first settlement wins": no_first_settlement,
    "a settlement has an id": no_ids_of_settlements,
    "an end withdraws promises": no_withdrawing,
    "a settlement wakes": no_waking,
    "due by the store's clock": due_by_the_workers_clock,
    **restart_rules.OFF,
}
