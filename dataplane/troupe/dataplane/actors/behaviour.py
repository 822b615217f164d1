"""What an actor does with a message: the port between the runtime and the agents and actors that it hosts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from troupe.broker.addressing import SessionKey
from troupe.broker.retry import RetryPolicy
from troupe.chassis.ledger import Ledger
from troupe.dataplane.actors.attempt import AttemptEvents
from troupe.v1.envelope_pb2 import Content, Envelope
from troupe.v1.turn_pb2 import Usage


class Journal(Protocol):
    """What earlier attempts of this turn did, and the way to add to it."""

    @property
    def kept(self) -> Mapping[str, bytes]:
        """What is journaled, by step."""
        ...

    async def keep(self, steps: Mapping[str, bytes], *, starts: bool) -> None:
        """Return once the steps are durable. `starts`: something that acts begins with them. A CANCEL recorded for
        the message, or a new owner of its shard, ends the turn here."""
        ...


@dataclass(frozen=True, slots=True)
class TurnContext:
    """What a turn is given."""

    key: SessionKey
    message: Envelope
    attempt: int
    state: bytes
    """As the last turn left it; empty at first."""
    history: Sequence[bytes]
    """The deltas of all turns, oldest first."""
    journal: Journal
    events: AttemptEvents
    ledger: Ledger


@dataclass(frozen=True, slots=True)
class Send:
    """A message that a turn sends once it is committed, if it is."""

    target: SessionKey
    content: Content


@dataclass(frozen=True, slots=True)
class TurnResult:
    """What a turn leaves behind when it succeeds."""

    reply: Content
    state: bytes | None = None
    """None keeps the old state."""
    delta: bytes | None = None
    """What to append to the history."""
    usage: Usage | None = None
    """What this turn used."""
    session_usage: Usage | None = None
    """What all turns of the session used, this one included."""
    sends: Sequence[Send] = ()
    """In order: messages to one session arrive in this order."""


class Behaviour(Protocol):
    """One Agent or Actor of one revision. Immutable: turns in flight keep theirs."""

    @property
    def revision_id(self) -> str: ...

    @property
    def generation(self) -> int: ...

    @property
    def retry(self) -> RetryPolicy: ...

    @property
    def deadline(self) -> float:
        """Seconds that one attempt may take."""
        ...

    async def run(self, turn: TurnContext) -> TurnResult:
        """Run one attempt. It is cancelled at its deadline, by a CANCEL, and when the worker stops. What it raises
        ends the attempt: a TroupeError as it says, anything else as retryable."""
        ...
