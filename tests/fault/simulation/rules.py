"""The protocol's rules, each with a way to switch it off: what a simulation cannot miss, it can be trusted with."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest import mock

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Place, Position
from troupe.dataplane.actors import actor
from troupe.dataplane.actors.arrivals import Arrival
from troupe.dataplane.actors.gap import GapWatch
from troupe.dataplane.actors.memory import SessionMemory
from troupe.dataplane.actors.turn import Turn
from troupe.dataplane.state import memory, rules
from troupe.dataplane.state.memory import MemoryStateStore
from troupe.dataplane.state.port import Begun, Entry, Owner, Placed, Record


def no_fence() -> AbstractContextManager[Any]:
    """Whoever writes is taken for the owner."""
    return mock.patch.object(rules, "raises_fence", lambda owner, record: owner.epoch > record[0])


@contextlib.contextmanager
def no_copysettle() -> Iterator[None]:
    """A message that is settled leaves its waiting copies as they are, and a copy is placed as a message."""
    place = rules.place

    def blind(
        entry: Entry, position: Position, *, waits: bool, known: bool, tombstone: bytes | None
    ) -> tuple[Placed, Record | None]:
        return place(entry, position, waits=waits, known=False, tombstone=tombstone)

    with (
        mock.patch.object(rules, "place", blind),
        mock.patch.object(memory._Session, "waiting", lambda session, message_id: []),
        mock.patch.object(SessionMemory, "record", lambda self, message_id: None),
    ):
        yield


@contextlib.contextmanager
def no_settled_check_in_put() -> Iterator[None]:
    """A number that is settled may be placed again."""
    place = rules.place

    def blind(
        entry: Entry, position: Position, *, waits: bool, known: bool, tombstone: bytes | None
    ) -> tuple[Placed, Record | None]:
        return place(entry, Position(), waits=waits, known=known, tombstone=tombstone)

    with mock.patch.object(rules, "place", blind):
        yield


@contextlib.contextmanager
def no_count_of_starts() -> Iterator[None]:
    """What kills its worker is started again and again."""
    begin = MemoryStateStore.begin

    async def uncounted(self: MemoryStateStore, owner: Owner, key: SessionKey, entry: Entry) -> Begun:
        found = await begin(self, owner, key, entry)
        session = self._sessions[key]
        session.inbox[entry.number] = replace(session.inbox[entry.number], starts=0)
        return found

    with mock.patch.object(MemoryStateStore, "begin", uncounted):
        yield


def no_probe() -> AbstractContextManager[Any]:
    """A gap is passed over once the time is up."""

    async def at_once(self: GapWatch, key: SessionKey) -> bool:
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
    return mock.patch.object(rules, "_refuse_cancelled", lambda message_id, fate, cancelled: None)


def fast_path_for_redelivered() -> AbstractContextManager[Any]:
    """What was delivered before may start uncounted, and without its journal."""

    def may_start(self: actor.Actor, arrival: Arrival) -> bool:
        return self._memory.place(arrival.entry.number) is Place.NEXT

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
}
