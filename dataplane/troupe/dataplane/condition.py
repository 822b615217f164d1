"""Whether a worker does its work: what it can tell of itself, second by second, and what that comes to. Pure.

A worker that is in trouble answers as before, and keeps its shards until the control plane moves them; but it is not
ready, and takes no session that is new to it. Trouble begins where something that could run has been held up for
DEGRADED seconds although the worker has time to run it, or where code has blocked the event loop for most of the last
seconds. It ends well below where it began, so that readiness does not come and go with every look.
"""

from dataclasses import dataclass
from typing import Final

from troupe.dataplane.actors.progress import BROKER, STORE, HeldUp

DEGRADED: Final = 10.0
"""Seconds for which what could run may be held up."""
RECOVERED: Final = 5.0
"""The same while the worker is in trouble."""
FULL: Final = 0.9
"""Share of a processor from which on the event loop has no time left: what waits then waits for its turn."""
BLOCKED: Final = 0.5
"""Share of the last seconds in which the loop may be blocked."""
FREED: Final = 0.2
"""The same while the worker is in trouble."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a worker sees of itself. Times are of one monotonic clock."""

    now: float
    held: HeldUp | None
    """What has been held up longest."""
    busy: float
    """Share of the last seconds in which the loop's thread had a processor."""
    blocked: float
    """Share of the last seconds in which the loop was blocked."""
    blocker: str = ""
    """The code that blocked it, where that is known."""


def trouble(look: Look, before: str) -> str:
    """What keeps the worker from working, in one sentence that stays the same while that does; empty for nothing.
    `before` is the answer to the look before."""
    if look.blocked > (FREED if before else BLOCKED):
        return f"something blocks the event loop again and again{f': {look.blocker}' if look.blocker else ''}"
    held = look.held
    if held is None or look.busy >= FULL or look.now - held.since <= (RECOVERED if before else DEGRADED):
        return ""
    about = f"message {held.message_id} of " if held.message_id else ""
    what = f"{about}session {held.key}" if held.key is not None else "a shard"
    return f"{_because(held)}: {what} is held up for more than {DEGRADED:g} s"


def _because(held: HeldUp) -> str:
    if held.cause == STORE:
        return "the state store does not answer"
    return "the broker does not answer" if held.cause == BROKER else "a turn does not end at its deadline"
