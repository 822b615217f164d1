"""What every revision store decides alike, and says alike when it refuses. Pure."""

from dataclasses import replace

from troupe.chassis.errors import Aborted
from troupe.controlplane.placement import Placement
from troupe.controlplane.revisions import Head
from troupe.controlplane.stores.port import KEPT_REVISIONS, Deposed, Leadership
from troupe.v1.rollout_pb2 import Rollout, RolloutStage


def unchanged(stored: Leadership, seen: Leadership) -> None:
    """Raises Aborted where the leadership in the store is another than was seen."""
    if stored != seen:
        raise leadership_changed(stored)


def led(seen: Leadership, holder: str, address: str, beyond: int) -> Leadership:
    """The record of a new leader."""
    return Leadership(max(seen.term, beyond) + 1, holder, address)


def renewed(held: Leadership) -> Leadership:
    """The record with one more sign of life."""
    return replace(held, renewals=held.renewals + 1)


def still(stored: Leadership, held: Leadership) -> bool:
    """Whether the store has this leader in this term, whatever its renewals."""
    return (stored.term, stored.holder) == (held.term, held.holder)


def in_term(stored: int, term: int) -> None:
    """Raises Deposed where the store's term is not the writer's."""
    if stored != term:
        raise deposed(stored, term)


def follows(head: Head, after: Head) -> None:
    """Raises Deposed or Aborted where a revision that follows `after` does not follow the head."""
    in_term(head.term, after.term)
    if head != after:
        raise head_moved(head)


def next_placement(stored: int, placement: Placement) -> None:
    """Raises Aborted where the stored version is not the one just before."""
    if stored != placement.version - 1:
        raise placement_moved(stored)


# --- refusals


def leadership_changed(stored: Leadership) -> Aborted:
    return Aborted(
        "LEADERSHIP_CONFLICT",
        f"{stored.holder or 'nobody'} leads in term {stored.term}, which is not what was seen; look again",
    )


def deposed(stored: int, term: int) -> Deposed:
    return Deposed("NOT_LEADER", f"term {term} is over, the store is in term {stored}; nothing was stored")


def head_moved(head: Head) -> Aborted:
    return Aborted(
        "REVISION_CONFLICT", f"revision {head.revision_id or 'none'} is the newest by now; read it and decide again"
    )


def placement_moved(stored: int) -> Aborted:
    return Aborted("PLACEMENT_CONFLICT", f"placement {stored} is the newest by now; read it and decide again")


# --- revisions


def complete(rollout: Rollout) -> bool:
    return rollout.stage == RolloutStage.ROLLOUT_STAGE_COMPLETE


def outdated(newest: int) -> int:
    """Generations up to this one are dropped, the newest COMPLETE one aside."""
    return newest - KEPT_REVISIONS
