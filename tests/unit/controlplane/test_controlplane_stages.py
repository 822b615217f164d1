"""The table of a rollout's stages is whole, and can be walked to an end from everywhere."""

from itertools import product

import pytest

from troupe.controlplane import stages
from troupe.controlplane.stages import IMPOSSIBLE, NEXT, UNFINISHED, Event
from troupe.v1.rollout_pb2 import Rollout, RolloutStage

ALL = [stage for stage in RolloutStage.values() if stage != RolloutStage.ROLLOUT_STAGE_UNSPECIFIED]


@pytest.mark.parametrize(("stage", "event"), list(product(ALL, Event)))
def test_every_event_leads_somewhere_or_cannot_happen(stage: stages.Stage, event: Event) -> None:
    assert ((stage, event) in NEXT) != (event in IMPOSSIBLE[stage])


def test_the_table_knows_no_other_stages() -> None:
    assert {stage for stage, _ in NEXT} | set(NEXT.values()) <= set(ALL)
    assert set(IMPOSSIBLE) == set(ALL)


@pytest.mark.parametrize("stage", ALL)
def test_no_stage_is_reached_from_one_after_it_but_by_a_way_back(stage: stages.Stage) -> None:
    """A rollout cannot go round: only ROLLING_BACK leads back to HALTED, which only another revision left."""
    ahead = {stage}
    while more := {to for (before, _), to in NEXT.items() if before in ahead} - ahead:
        ahead |= more
    if stage not in UNFINISHED:
        assert not ahead & UNFINISHED


def test_moving_says_when_and_why() -> None:
    rollout = Rollout(stage=stages.ROLLING)

    stages.move(rollout, Event.TOO_MANY_FAILED, 12.5, "worker-1 failed")

    assert (rollout.stage, rollout.reason) == (stages.HALTED, "worker-1 failed")
    assert rollout.stage_began.ToMilliseconds() == 12_500


def test_an_end_that_stays_keeps_its_reason() -> None:
    rollout = Rollout(stage=stages.HALTED, reason="worker-1 failed")
    before = Rollout.FromString(rollout.SerializeToString())

    stages.move(rollout, Event.NEWER_COMMITTED, 12.5, "another came")

    assert rollout == before


def test_what_cannot_happen_is_a_defect() -> None:
    with pytest.raises(KeyError):
        stages.move(Rollout(stage=stages.SUPERSEDED), Event.ALL_DONE, 1.0)
