"""What a session has to do with its memory once a turn's outcome is durable."""

from collections.abc import Sequence
from dataclasses import dataclass

from troupe.dataplane.state.session import Entry, Outgoing


@dataclass(frozen=True, slots=True)
class Settled:
    """The number is settled; what changed with it."""

    version: int
    """What the store says of the session's."""
    recorded: bool
    grows: int = 0
    """By how much the version grows with it."""
    state: bytes | None = None
    delta: bytes | None = None
    snapshot: bytes | None = None
    sent: Sequence[Outgoing] = ()


@dataclass(frozen=True, slots=True)
class Retrying:
    """The message stands at the head of the inbox."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Resting:
    """The message stands at the head of the inbox, suspended, and the session is at rest."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Resumed:
    """There is nothing to wait for any more: the attempt is to begin anew, from its journal."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Memory is not what the store has: load it again. The message stands in the inbox."""


Outlook = Settled | Retrying | Resting | Resumed | Conflict
