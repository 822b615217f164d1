"""What one revision's coming and end make of the rollout of another."""

import pytest

from troupe.controlplane.stages import (
    CANARY,
    COMPLETE,
    HALTED,
    PENDING,
    ROLLED_BACK,
    ROLLING,
    ROLLING_BACK,
    SUPERSEDED,
    Stage,
)
from troupe.controlplane.succession import settled
from troupe.v1.rollout_pb2 import Rollout


def left(by: str = "back") -> Rollout:
    return Rollout(stage=ROLLING_BACK, rolled_back_by_revision_id=by, reason="it failed")


@pytest.mark.parametrize(
    ("way_back", "expected"),
    [
        (COMPLETE, ROLLED_BACK),
        (HALTED, HALTED),
        (SUPERSEDED, SUPERSEDED),
        (ROLLING_BACK, SUPERSEDED),
        (ROLLED_BACK, SUPERSEDED),
    ],
)
def test_how_a_way_back_went_is_how_it_stands(way_back: Stage, expected: Stage) -> None:
    rollouts = {"bad": left(), "back": Rollout(stage=way_back, rolled_back_by_revision_id="gone")}
    changed = settled(rollouts, 7.0)
    assert changed["bad"].stage == expected
    assert changed["bad"].reason.startswith("it failed; ")
    assert "back" in changed["bad"].reason
    assert settled(rollouts | changed, 8.0) == {}


@pytest.mark.parametrize("way_back", [PENDING, CANARY, ROLLING])
def test_while_it_is_on_its_way_nothing_changes(way_back: Stage) -> None:
    assert settled({"bad": left(), "back": Rollout(stage=way_back)}, 7.0) == {}


def test_a_way_back_that_is_not_kept_any_more_was_left() -> None:
    assert settled({"bad": left()}, 7.0)["bad"].stage == SUPERSEDED


def test_others_are_left_alone() -> None:
    stages = (PENDING, CANARY, ROLLING, COMPLETE, HALTED, ROLLED_BACK, SUPERSEDED)
    assert settled({str(stage): Rollout(stage=stage) for stage in stages}, 7.0) == {}
