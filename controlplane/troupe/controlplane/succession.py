"""What a revision's coming, and its end, make of the rollouts of those before it."""

from collections.abc import Mapping

from troupe.chassis.wire import timestamp
from troupe.controlplane.stages import COMPLETE, HALTED, PENDING, ROLLING_BACK, UNFINISHED, Event, move
from troupe.v1.rollout_pb2 import Rollout, RolloutPolicy


def fresh(policy: RolloutPolicy, now: float, rollback_of: str = "") -> Rollout:
    """The rollout of a revision that is about to be committed. `policy` has every field set."""
    return Rollout(stage=PENDING, policy=policy, rollback_of_revision_id=rollback_of, stage_began=timestamp(now))


def followed(rollout: Rollout, by: str, now: float) -> Rollout:
    """The rollout of the newest revision after the commit of revision `by`, which is not its way back."""
    after = _copy(rollout)
    move(after, Event.NEWER_COMMITTED, now, f"revision {by} came before its rollout was at its end")
    return after


def left(rollout: Rollout, by: str, why: str, now: float) -> Rollout:
    """The rollout of the newest revision after the commit of revision `by`, its way back."""
    after = _copy(rollout)
    move(after, Event.WAY_BACK_COMMITTED, now, why)
    after.rolled_back_by_revision_id = by
    return after


def settled(rollouts: Mapping[str, Rollout], now: float) -> dict[str, Rollout]:
    """What changes of the kept revisions' rollouts, by revision id, now that those in `rollouts` are as they are: how
    a way back went is how the revision stands that it leads away from. Persist it together with the end of the way
    back, or with the rollouts as a new leader finds them; the same again gives nothing."""
    changed: dict[str, Rollout] = {}
    for revision_id, rollout in rollouts.items():
        if rollout.stage != ROLLING_BACK:
            continue
        by = rollout.rolled_back_by_revision_id
        event = _end_of(rollouts.get(by))
        if event is not None:
            changed[revision_id] = after = _copy(rollout)
            move(after, event, now, f"{rollout.reason}; {_HOW[event].format(by)}")
    return changed


_HOW = {
    Event.WAY_BACK_COMPLETE: "revision {} brought the old content back",
    Event.WAY_BACK_HALTED: "revision {}, the way back, failed too",
    Event.WAY_BACK_LEFT: "a newer revision came before revision {} had brought the old content back",
}


def _end_of(way_back: Rollout | None) -> Event | None:
    if way_back is None:
        return Event.WAY_BACK_LEFT
    if way_back.stage in UNFINISHED:
        return None
    return {COMPLETE: Event.WAY_BACK_COMPLETE, HALTED: Event.WAY_BACK_HALTED}.get(way_back.stage, Event.WAY_BACK_LEFT)


def _copy(rollout: Rollout) -> Rollout:
    copied = Rollout()
    copied.CopyFrom(rollout)
    return copied
