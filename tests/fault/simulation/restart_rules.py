"""The rules of RESTART, each with a way to switch it off."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from fault.simulation.remote import RemoteStore

from troupe.broker.addressing import SessionKey
from troupe.dataplane.state import verbs
from troupe.dataplane.state.control import Control, Restart
from troupe.dataplane.state.memory_session import Session
from troupe.dataplane.state.verbs import Standing
from troupe.v1 import agent_pb2
from troupe.v1.agent_pb2 import VerbAnswer


def no_settling() -> AbstractContextManager[Any]:
    """What another message goes on for goes on too."""
    at_once = verbs.ends_at_once

    def never(control: Control, answer: VerbAnswer.ValueType, found: Standing) -> bytes | None:
        return None if control.restart is not None else at_once(control, answer, found)

    return mock.patch.object(verbs, "ends_at_once", never)


def no_look_whether_it_runs() -> AbstractContextManager[Any]:
    """What has begun is taken to be at rest."""
    return mock.patch.object(Standing, "begun", False)


def no_steps() -> AbstractContextManager[Any]:
    """The message that goes on does not know what was done."""
    return _restarting(lambda to: replace(to, journal={}))


def no_look_for_more_steps() -> AbstractContextManager[Any]:
    """The message that goes on has what was journaled when somebody looked."""
    restarted = verbs._restarted

    def blind(control: Control, found: Standing) -> VerbAnswer.ValueType:
        to = control.restart and replace(control.restart, seen=found.steps)
        return restarted(replace(control, restart=to), found)

    return mock.patch.object(verbs, "_restarted", blind)


def no_promises() -> AbstractContextManager[Any]:
    """Promises stay with the message that is settled."""
    return _restarting(lambda to: replace(to, promises=frozenset()))


@contextmanager
def two_scripts() -> Iterator[None]:
    """The message is settled, and the one that goes on is written after that."""
    control, restart = RemoteStore.control, Session.restart

    async def parted(self: RemoteStore, key: SessionKey, order: Control) -> VerbAnswer.ValueType:
        answer = await control(self, key, order)
        if (to := order.restart) is not None and answer == agent_pb2.VERB_ANSWER_APPLIED:
            store: Any = self._store

            async def write() -> None:
                restart(store._find(key), order.message_id, to, store._clock.now())

            await self._link.call("the other message", write)
        return answer

    with (
        mock.patch.object(RemoteStore, "control", parted),
        mock.patch.object(Session, "restart", lambda *_: None),
    ):
        yield


def _restarting(change: Callable[[Restart], Restart]) -> AbstractContextManager[Any]:
    restart = Session.restart

    def changed(self: Session, message_id: str, to: Restart, now: float) -> None:
        restart(self, message_id, change(to), now)

    return mock.patch.object(Session, "restart", changed)


OFF: Mapping[str, Callable[[], AbstractContextManager[Any]]] = {
    "a RESTART settles its message": no_settling,
    "a RESTART is for what is at rest": no_look_whether_it_runs,
    "a RESTART keeps steps": no_steps,
    "a RESTART looks whether there are more steps": no_look_for_more_steps,
    "a RESTART keeps promises": no_promises,
    "a RESTART is one script": two_scripts,
}
