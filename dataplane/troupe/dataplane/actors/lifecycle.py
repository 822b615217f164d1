"""The life of an actor, as a table. Pure.

An actor is ACTIVATING while its state is loaded. Then it is IDLE, RUNNING one turn, or WAITING: something is in its
inbox that may not start yet (a retry, a gap, a promise, RESUME). DRAINING lets the turn that runs come to its end and
starts no other. STOPPED and FAILED are final: the actor has left memory, and its next message activates another.
"""

from enum import IntEnum, auto


class ActorState(IntEnum):
    ACTIVATING = auto()
    IDLE = auto()
    RUNNING = auto()
    WAITING = auto()
    DRAINING = auto()
    STOPPED = auto()
    FAILED = auto()


class ActorEvent(IntEnum):
    """What moves an actor on."""

    LOADED = auto()
    BEGIN = auto()
    REST = auto()
    """Nothing runs and nothing waits."""
    WAIT = auto()
    """Nothing runs; what is in the inbox may not start yet."""
    DRAIN = auto()
    STOP = auto()
    FAIL = auto()


_S, _E = ActorState, ActorEvent
TRANSITIONS: dict[tuple[ActorState, ActorEvent], ActorState] = {
    (_S.ACTIVATING, _E.LOADED): _S.IDLE,
    (_S.IDLE, _E.BEGIN): _S.RUNNING,
    (_S.IDLE, _E.REST): _S.IDLE,
    (_S.IDLE, _E.WAIT): _S.WAITING,
    (_S.WAITING, _E.BEGIN): _S.RUNNING,
    (_S.WAITING, _E.WAIT): _S.WAITING,
    (_S.WAITING, _E.REST): _S.IDLE,
    (_S.RUNNING, _E.REST): _S.IDLE,
    (_S.RUNNING, _E.WAIT): _S.WAITING,
    (_S.ACTIVATING, _E.DRAIN): _S.DRAINING,
    (_S.IDLE, _E.DRAIN): _S.DRAINING,
    (_S.WAITING, _E.DRAIN): _S.DRAINING,
    (_S.RUNNING, _E.DRAIN): _S.DRAINING,
    (_S.DRAINING, _E.DRAIN): _S.DRAINING,
    (_S.DRAINING, _E.LOADED): _S.DRAINING,
    (_S.DRAINING, _E.REST): _S.DRAINING,
    (_S.DRAINING, _E.WAIT): _S.DRAINING,
    **{(state, _E.STOP): _S.STOPPED for state in (_S.ACTIVATING, _S.IDLE, _S.RUNNING, _S.WAITING, _S.DRAINING)},
    **{(state, _E.FAIL): _S.FAILED for state in (_S.ACTIVATING, _S.IDLE, _S.RUNNING, _S.WAITING, _S.DRAINING)},
    (_S.STOPPED, _E.STOP): _S.STOPPED,
    (_S.FAILED, _E.STOP): _S.FAILED,
    (_S.FAILED, _E.FAIL): _S.FAILED,
    (_S.STOPPED, _E.FAIL): _S.STOPPED,
}
FINAL = frozenset({ActorState.STOPPED, ActorState.FAILED})


def after(state: ActorState, event: ActorEvent) -> ActorState:
    """The state that `event` leads to. Raises ValueError where the table has no such move: that is a defect."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"an actor that is {state.name} cannot {event.name}") from None
