"""The life of an actor is a table."""

import itertools

import pytest

from troupe.dataplane.actors.lifecycle import FINAL, TRANSITIONS, ActorEvent, ActorState, after


def test_every_state_can_be_reached() -> None:
    reached, frontier = {ActorState.ACTIVATING}, {ActorState.ACTIVATING}
    while frontier:
        frontier = {to for (state, _), to in TRANSITIONS.items() if state in frontier} - reached
        reached |= frontier
    assert reached == set(ActorState)


@pytest.mark.parametrize("state", [state for state in ActorState if state in FINAL])
@pytest.mark.parametrize("event", ActorEvent)
def test_what_is_final_is_final(state: ActorState, event: ActorEvent) -> None:
    try:
        assert after(state, event) is state
    except ValueError:
        assert event not in (ActorEvent.STOP, ActorEvent.FAIL), "these two may always be said again"


@pytest.mark.parametrize("state", [state for state in ActorState if state not in FINAL])
def test_every_life_can_end(state: ActorState) -> None:
    assert after(state, ActorEvent.STOP) is ActorState.STOPPED
    assert after(state, ActorEvent.FAIL) is ActorState.FAILED
    assert after(state, ActorEvent.DRAIN) is ActorState.DRAINING


def test_one_that_drains_never_begins() -> None:
    states = {to for (state, _), to in TRANSITIONS.items() if state is ActorState.DRAINING}
    assert states <= {ActorState.DRAINING, *FINAL}
    with pytest.raises(ValueError, match="an actor that is DRAINING cannot BEGIN"):
        after(ActorState.DRAINING, ActorEvent.BEGIN)


def test_only_one_turn_at_a_time() -> None:
    with pytest.raises(ValueError, match="RUNNING cannot BEGIN"):
        after(ActorState.RUNNING, ActorEvent.BEGIN)


def test_all_else_is_refused() -> None:
    for state, event in itertools.product(ActorState, ActorEvent):
        if (state, event) not in TRANSITIONS:
            with pytest.raises(ValueError):
                after(state, event)
