"""Places where a process can be told to die, for tests of what a crash must not break.

`TROUPE_FAULT_POINT=commit.before:3` makes a service kill itself, as `kill -9` does, when it gets to `commit.before` for
the third time; several are separated by commas, and the first that is reached counts. Without it `reach` does nothing
and costs less than 100 ns.
"""

import os
import signal
import sys
from collections.abc import Mapping
from typing import Final

from troupe.chassis.errors import InvalidArgument

VARIABLE: Final = "TROUPE_FAULT_POINT"

_PERSISTED: Final = {
    "load": "a session is read from the store",
    "look-up": "the record of a message is read",
    "start": "a start from the inbox is counted",
    "journal": "steps of a turn are journaled",
    "commit": "a message is settled: state, record, position and outbox in one",
    "inbox": "a message is written to its session's inbox, marked as running where it is",
    "suspension": "a turn that waits for a promise or for RESUME gives up its place in memory",
    "rest": "a message that is paused rests, without having run",
    "verbs": "the verbs recorded for a session are read",
    "retry": "a message is put back to the head of the inbox",
    "dead letter": "a letter is written to the broker; its record follows",
    "outbox": "what was published is struck from the outbox",
    "take-over": "a message is taken over from another owner's mark",
    "gap": "numbers that did not come are passed over",
}
POINTS: Final[Mapping[str, str]] = {
    "call.taken": "step 1: a gateway has a client's message, and has done nothing with it",
    "call.followed": "step 2: the gateway follows the message's events",
    "publish.before": "step 3: the message has its number",
    "publish.confirmed": "step 3: the broker has it, and nobody has been told",
    "delivery.taken": "step 4: the owner has the delivery, and has done nothing with it",
    "turn.before": "step 5: the turn is about to run",
    "turn.after": "step 5: it has run, and nothing of that is settled",
    "ack.before": "step 7: the message is settled, and its delivery is not acked",
    "ack.after": "step 7: its delivery is acked, and its outbox not published",
    "outbox.published": "step 7: what the turn sent is confirmed, and stands in the outbox yet",
    "verb.after": "a verb is recorded, and nobody has been told",
    "settlement.after": "a promise is settled, and nobody has been told",
    "due.after": "what is due has taken its place, and no session has been told",
    "claim.after": "the fence is raised for a new owner, which has not subscribed",
    "handover.before": "a shard is to be handed over, and its owner has done nothing about it",
    "handover.cancelled": "its consumer is cancelled, and nothing is written down",
    "handover.written": "what it had stands in the inboxes, and its channel is open",
    "handover.after": "it has let go, and nobody has been told",
    **{f"{name}.before": f"before {what}" for name, what in _PERSISTED.items()},
    **{f"{name}.after": f"after {what}" for name, what in _PERSISTED.items()},
}
"""All of them, and where each lies. The steps are those of ARCHITECTURE.md, "The way of one turn"."""

_left: dict[str, int] = {}
"""How often a point is still to be reached until it kills."""


def arm(environment: Mapping[str, str]) -> None:
    """Do as `TROUPE_FAULT_POINT` says from now on; without it, nothing. Raises InvalidArgument for a point that is
    none."""
    _left.clear()
    for one in environment.get(VARIABLE, "").split(","):
        name, _, nth = one.strip().partition(":")
        if not name:
            continue
        if name not in POINTS or not (nth or "1").isdecimal() or int(nth or "1") < 1:
            raise InvalidArgument(
                "BAD_FAULT_POINT", f"{VARIABLE}: {one!r} is not NAME:NTH, of the points {', '.join(sorted(POINTS))}"
            )
        _left[name] = int(nth or "1")


def reach(point: str) -> None:
    """The process is at this point, and does not go on where it is to die here."""
    if _left and point in _left:
        _left[point] -= 1
        if not _left[point]:
            _die(point)


def _die(point: str) -> None:
    os.write(sys.stderr.fileno(), f"killed at the fault point {point}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)
