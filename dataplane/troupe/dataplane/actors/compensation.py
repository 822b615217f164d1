"""Taking back what a cancelled turn has done."""

import asyncio

import structlog

from troupe.broker.addressing import SessionKey
from troupe.dataplane.actors.behaviour import NotCompensated
from troupe.dataplane.actors.journal import keep_unheard
from troupe.dataplane.actors.outcome import MAX_STARTS, cause_of, context_of, said, where
from troupe.dataplane.actors.turn import Turn
from troupe.dataplane.actors.world import World
from troupe.dataplane.state.errors import CancelRecorded, Fenced
from troupe.dataplane.state.session import Loaded, Owner

log = structlog.get_logger()


async def compensate(world: World, owner: Owner, key: SessionKey, turn: Turn, loaded: Loaded) -> bool:
    """Let the behaviour take back what the turn's journal says that it did, if it says anything and nobody asked for a
    KILL. False where this is not to begin any more, because the session is handed over. Raises Fenced, and
    NotCompensated where not all is taken back, and will not be: also where it kills its workers."""
    behaviour = world.behaviour(key)
    if not turn.journal or turn.killed:
        return True
    if behaviour is None or turn.entry.starts >= MAX_STARTS:
        starts = turn.entry.starts
        why = "no revision knows its target" if behaviour is None else f"it was started {starts} times and never ended"
        raise NotCompensated(turn.message_id, why)
    if not turn.start():
        return False
    turn.compensates = True
    await keep_unheard(world, owner, key, turn)
    try:
        async with asyncio.timeout(behaviour.deadline) as scope:
            turn.acts(scope, world.clock.monotonic() + behaviour.deadline)
            await behaviour.compensate(context_of(world, owner, key, turn, loaded))
    except Exception as error:
        match cause_of(error):
            case Fenced() as fenced:
                raise fenced from None
            case NotCompensated() as failed:
                raise failed from None
            case cause if _is_killed(turn, cause):
                log.info("compensations killed", session=str(key), message=turn.message_id)
            case cause:
                log.warning(
                    "compensations of a cancelled turn failed",
                    agent=key.agent,
                    session=key.session,
                    message=turn.message_id,
                    error=said(cause),
                    where=where(cause),
                )
                raise NotCompensated(turn.message_id, said(cause)) from None
    finally:
        turn.has_acted(world.clock.monotonic())
        if turn.abandoned:
            raise asyncio.CancelledError
    return True


def _is_killed(turn: Turn, error: Exception) -> bool:
    """Whether a KILL ended them."""
    return turn.killed or (isinstance(error, CancelRecorded) and error.kill)
