"""What every broker can do. `memory.py` and `sqlite.py` do it; one contract suite runs over all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from troupe.chassis.errors import FailedPrecondition, NotFound, ResourceExhausted
from troupe.v1.envelope_pb2 import Envelope

PREFETCH = 32
"""Deliveries that a mailbox's consumer holds unacked: enough to keep it busy, since what waits goes to inboxes."""


class MailboxFull(ResourceExhausted):
    """The mailbox takes no more. The message was not sent: its number may be used again."""

    @classmethod
    def of(cls, queue: str, max_depth: int) -> "MailboxFull":
        return cls("MAILBOX_FULL", f"{queue} holds {max_depth} messages; try later", retry_after=1.0)


@dataclass(slots=True)
class Delivery:
    """One message, handed to a consumer, to be acked exactly once. Until then it counts against the prefetch and
    comes again when the subscription closes."""

    body: bytes
    queue: str
    published: float
    """When the broker confirmed it, seconds since the epoch."""
    redeliveries: int
    """How often it was, or may have been, delivered before."""
    settle: Callable[[], None] = field(repr=False)
    acked: bool = False

    def ack(self) -> None:
        """The message has had its effect, or waits elsewhere. Does not wait: an ack that is lost brings the message
        again. A second call is a defect and raises RuntimeError."""
        if self.acked:
            raise RuntimeError(f"a delivery of {self.queue} was acked twice")
        self.acked = True
        self.settle()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that will not be tried again by itself, and why. Times are seconds since the epoch."""

    body: bytes
    """The envelope as it was delivered, or whatever could not be decoded as one."""
    pool: str
    """`agents` for mailboxes."""
    message_id: str
    session: str
    """The session's path; empty when it could not be read."""
    reason: str
    error: str
    attempts: int
    first_failed: float
    last_failed: float
    worker_id: str
    revision_id: str
    trace_id: str


@dataclass(frozen=True, slots=True)
class Depth:
    """What a mailbox holds."""

    messages: int
    oldest: float | None
    """When its oldest message was confirmed, seconds since the epoch."""


class Subscription(Protocol):
    """A consumer's hold on one mailbox."""

    async def cancel(self) -> None:
        """Stop deliveries. What is unacked may still be acked."""
        ...

    async def close(self) -> None:
        """Stop deliveries and give back what is unacked, in its old order, as redelivered."""
        ...


class Broker(Protocol):
    """Carries envelopes to the mailbox of their target's shard, durably where the backend is."""

    async def declare(self, shards: int) -> None:
        """Make the mailboxes of a fleet of this many shards, from 1. Repeating it changes nothing. Raises
        FailedPrecondition for another count than the mailboxes were made with: their messages would not be found."""
        ...

    async def publish(self, envelope: Envelope) -> None:
        """Return once the message cannot be lost. Messages published one after another by one caller without
        waiting arrive in the order of the calls.

        Raises InvalidArgument, for a target that names no session, NotFound, before `declare`, and MailboxFull: not
        sent. Unavailable: the outcome is unknown; the same envelope may be published again. A caller that is
        cancelled does not know the outcome either."""
        ...

    async def consume(self, queue: str, handler: Callable[[Delivery], None], prefetch: int = PREFETCH) -> Subscription:
        """Hand the mailbox's messages to `handler`, oldest first, at most `prefetch` of them unacked at once. A
        mailbox has one consumer until that one closes. Raises FailedPrecondition when it has another, NotFound when
        `queue` is no mailbox. `handler` must not raise."""
        ...

    async def dead_letter(self, letter: DeadLetter) -> None:
        """Keep the letter; return once it cannot be lost. The delivery is acked by the caller, afterwards."""
        ...

    async def dead_letters(self, limit: int) -> Sequence[DeadLetter]:
        """The oldest letters, at most `limit`."""
        ...

    async def depth(self, queue: str) -> Depth:
        """What the mailbox holds, delivered and unacked messages included. Raises NotFound when `queue` is none."""
        ...


def mailbox_unknown(queue: str) -> NotFound:
    """What is raised for a mailbox that was not declared."""
    return NotFound("MAILBOX_UNKNOWN", f"no mailbox {queue}; declare the fleet's shards first")


def shards_changed(declared: int, shards: int) -> FailedPrecondition:
    """What is raised for another number of shards than mailboxes were made with."""
    return FailedPrecondition(
        "SHARDS_CHANGED",
        f"the mailboxes were made for {declared} shards, not {shards}; a fleet keeps the number that it began with",
    )
