"""What an actor does with a message: the port between the runtime and the agents and actors that it hosts."""

from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Never, Protocol

from google.rpc import code_pb2

from troupe.broker.addressing import SessionKey
from troupe.broker.retry import RetryPolicy
from troupe.chassis.errors import TroupeError
from troupe.chassis.ledger import Ledger
from troupe.dataplane.actors.attempt import AttemptEvents
from troupe.dataplane.state.control import Promise
from troupe.v1.envelope_pb2 import Content, Envelope
from troupe.v1.turn_pb2 import Usage


class Journal(Protocol):
    """What earlier attempts of this turn did, and the way to add to it."""

    @property
    def kept(self) -> Mapping[str, bytes]:
        """What is journaled, by step."""
        ...

    @property
    def promises(self) -> Mapping[str, Promise]:
        """What this turn has promised itself, by id, as it stood when the attempt began, and what was made since."""
        ...

    async def keep(
        self,
        steps: Mapping[str, bytes],
        *,
        starts: bool,
        compensates: bool = False,
        promises: Sequence[Promise] = (),
    ) -> None:
        """Return once the steps are durable, and the promises open. `starts`: something that acts begins with them. A
        CANCEL or PAUSE recorded for the message, or a new owner of its shard, ends the attempt here; what
        `compensates` is ended by a KILL only."""
        ...

    def calling(self) -> AbstractContextManager[None]:
        """Inside, a call runs whose start is kept: the attempt does not end in a wait before it is left, which is when
        the call's result is kept, or it is clear that there will be none."""
        ...


@dataclass(frozen=True, slots=True)
class TurnContext:
    """What a turn is given."""

    key: SessionKey
    message: Envelope
    attempt: int
    state: bytes
    """As the last turn left it; empty at first."""
    snapshot: bytes
    """What an earlier turn made of the history up to then; empty: none did."""
    history: Sequence[bytes]
    """The deltas of all turns since, oldest first."""
    journal: Journal
    events: AttemptEvents
    ledger: Ledger
    suspend: Callable[[Collection[str]], Coroutine[Any, Any, Never]]
    """Ends the attempt, from wherever in it this is awaited: the turn waits until one of these promises, by id, is
    settled, and then runs again from its journal. Calls that run (`Journal.calling`) come to their end first, and no
    other starts. Raises FailedPrecondition where one of them is not open: then there is nothing to wait for."""
    batch: Sequence[Envelope] = ()
    """The messages behind `message` that the turn settles with it. None but in a turn that takes a batch; that has no
    journal."""
    cancelled: Callable[[], bool] = lambda: False
    """Whether a CANCEL or a KILL came."""


@dataclass(frozen=True, slots=True)
class Send:
    """A message that a turn sends once it is committed, if it is."""

    target: SessionKey
    content: Content


@dataclass(frozen=True, slots=True)
class Remind:
    """A reminder that a turn sets for its own session, in place of the one that has this name."""

    name: str
    due: float
    """Seconds since the epoch."""
    every: float
    """Seconds; 0: once."""
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
    replies: Sequence[Content] = ()
    """To the messages of the batch, one each."""
    snapshot: bytes | None = None
    """What stands for the history up to and with `delta`, from now on."""
    remind: Sequence[Remind] = ()
    forget_reminders: Sequence[str] = ()
    """By name."""


MAX_WHY: Final = 1000
"""Characters that are kept of why something was not taken back."""


class NotCompensated(TroupeError):
    """A message was cancelled, and something that it did stays: a person is to see to it. Reason NOT_COMPENSATED."""

    code: ClassVar[int] = code_pb2.ABORTED

    def __init__(self, message_id: str, why: str) -> None:
        super().__init__(
            "NOT_COMPENSATED",
            f"message {message_id} was cancelled, and not all that it did was taken back: {why[:MAX_WHY]}; see to that "
            "by hand",
        )


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

    @property
    def retention(self) -> float:
        """Seconds after which a session goes that nothing was said to."""
        ...

    @property
    def max_batch(self) -> int:
        """Messages that one turn takes at most; 1: it takes no batches."""
        ...

    async def run(self, turn: TurnContext) -> TurnResult:
        """Run one attempt. It is cancelled at its deadline, by a CANCEL, when it is suspended, and when the worker
        stops. What it raises ends the attempt: a TroupeError as it says, anything else as retryable."""
        ...

    async def compensate(self, turn: TurnContext) -> None:
        """Take back what the turn's journaled calls have done, newest first: a CANCEL has ended it. Each compensation
        is journaled, and done once. Cancelled at the deadline, by a KILL, and when the worker stops. Whatever it
        raises, the message is cancelled; a dead letter says what was not taken back."""
        ...
