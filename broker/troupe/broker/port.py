"""What every broker can do. `memory.py`, `sqlite.py` and `rabbitmq/` do it; one contract suite runs over all."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from troupe.broker.addressing import NAME, task_queue
from troupe.chassis.errors import FailedPrecondition, InvalidArgument, NotFound, TroupeError, Unavailable
from troupe.v1.envelope_pb2 import Envelope

PREFETCH = 32
"""Deliveries that a mailbox's consumer holds unacked: enough to keep it busy, since what waits goes to inboxes."""
AGENTS = "agents"
"""The pool whose dead letters come from mailboxes; others are of the task queue of that name."""


class NotSent(Unavailable):
    """The broker does not take messages now, and this one certainly was not sent: its number may be used again."""


@dataclass(slots=True)
class Delivery:
    """One message, handed to a consumer, to be acked, deferred or dead-lettered exactly once. Until then it counts
    against the prefetch and comes again when the subscription closes."""

    body: bytes
    queue: str
    published: float
    """When it was published, as near as the broker knows it, seconds since the epoch."""
    redeliveries: int
    """How often it was, or may have been, delivered before."""
    settle: Callable[[], None] = field(repr=False)
    channel: int = 0
    """Which of its subscription's channels brought it: a later one has a higher number, and its first delivery says
    that those of all earlier ones are void."""
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

    id: str
    """Names the letter: a UUIDv7, so letters sort by when they were made."""
    body: bytes
    """The envelope as it was delivered, or whatever could not be decoded as one."""
    pool: str
    """AGENTS for mailboxes, else the pool of the task queue."""
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


class HeldLetter(Protocol):
    """One letter, until the block of `Broker.dead_letters` is left."""

    @property
    def letter(self) -> DeadLetter: ...

    async def remove(self) -> None:
        """Drop the letter; return once it is gone for good. Raises Unavailable: it may come again."""
        ...


@dataclass(frozen=True, slots=True)
class Depth:
    """What a queue holds."""

    messages: int
    """Delivered and unacked ones included, as far as this process can know of them; deferred ones once they are
    back."""
    oldest: float | None
    """When its oldest message was published, seconds since the epoch; None where it is empty, or where this process
    does not consume it and cannot know."""


class Subscription(Protocol):
    """A consumer's hold on one queue. It outlives connections: when one breaks, or the broker cancels the consumer,
    the backend subscribes again by itself, and what was unacked comes again; the deliveries of before are then void,
    and acking them does nothing."""

    @property
    def connected(self) -> bool:
        """Whether messages can come now, as far as the backend knows: False from when a connection is lost until the
        backend has subscribed again."""
        ...

    async def limit(self, prefetch: int) -> None:
        """At most so many unacked at once from now on; returns when that holds for what comes. What is unacked already
        may stay beside it until it is acked: never more than the old number in all where that was the larger one, and
        never more than both together. One call at a time, or the last one to begin holds."""
        ...

    async def cancel(self) -> None:
        """Stop deliveries; returns when none comes any more. What is unacked may still be acked."""
        ...

    async def close(self) -> None:
        """Stop deliveries and give back what is unacked, as redelivered; in its old place where the backend can."""
        ...


class Broker(Protocol):
    """Carries envelopes to the mailbox of their target's shard, or to a pool of workers, durably where the backend
    is. Queues are named by `addressing.mailbox` and `addressing.task_queue`."""

    async def declare(self, shards: int, pools: Sequence[str] = ()) -> None:
        """Make the mailboxes of a fleet of this many shards, from 1, and the task queues and dead letters of these
        pools. Repeating it changes nothing, more pools are added. Raises FailedPrecondition for another count of
        shards than the mailboxes were made with: their messages would not be found; InvalidArgument for a pool whose
        name is none, or AGENTS."""
        ...

    async def publish(self, envelope: Envelope, pool: str = "") -> None:
        """Return once the message cannot be lost: it stands in its target's mailbox or, with `pool`, in that task
        queue. Messages published one after another by one caller without waiting arrive in the order of the calls.

        Raises InvalidArgument, for a target that names no session, NotFound, before `declare`, and NotSent: not sent.
        Unavailable: the outcome is unknown; the same envelope may be published again. A caller that is cancelled
        does not know the outcome either. A broker whose connection is away waits for it, in the caller's deadline."""
        ...

    async def publish_many(self, envelopes: Sequence[Envelope], pool: str = "") -> Sequence[TroupeError | None]:
        """Publish all of them without waiting in between, in order; what each came to: None is a confirm, an error
        one of those of `publish`."""
        ...

    async def consume(self, queue: str, handler: Callable[[Delivery], None], prefetch: int = PREFETCH) -> Subscription:
        """Hand the queue's messages to `handler`, oldest first, at most `prefetch` of them unacked at once. A mailbox
        has one active consumer: in one process a second is refused with FailedPrecondition; where several processes
        share the broker it waits until the first is gone. A task queue has any number. Raises NotFound when `queue`
        is none. `handler` must not raise."""
        ...

    async def defer(self, delivery: Delivery, delay: float) -> None:
        """Task queues only: bring the message again after about `delay` seconds (above 0), with its attempt counted
        one up, and ack this delivery; returns once the message is safe again. It comes as one that was never delivered.
        A message whose delivery is void by then may come twice. Raises Unavailable: the delivery stays unacked, as it
        does where the caller is cancelled, and the message may come twice; InvalidArgument for a mailbox's delivery
        and any other delay, Undecodable for a body that is no envelope."""
        ...

    async def dead_letter(self, letter: DeadLetter) -> None:
        """Keep the letter; return once it cannot be lost. The delivery is acked by the caller, afterwards. Raises
        Unavailable: it may be kept or not; the same letter may be kept again, and is then there once, or twice where
        the backend cannot tell."""
        ...

    def dead_letters(self, pool: str = AGENTS) -> AbstractAsyncContextManager[AsyncIterator[HeldLetter]]:
        """Every letter of the pool that is there now, each once, oldest first as far as the backend keeps order.
        Letters that are not removed stay, also when the iteration is left early. Where others look at the same time a
        letter may be shown to one of them only. Raises NotFound for a pool that was not declared; AGENTS always is."""
        ...

    async def depth(self, queue: str) -> Depth:
        """What the queue holds. Raises NotFound when `queue` is none, Unavailable where nobody can say now."""
        ...


def check_pools(pools: Sequence[str]) -> None:
    """Raise InvalidArgument where one of them cannot be the name of a pool."""
    for pool in pools:
        if not NAME.fullmatch(pool) or pool == AGENTS:
            raise InvalidArgument("BAD_POOL", f"pool {pool!r} must match {NAME.pattern} and not be {AGENTS!r}")


def check_deferral(delivery: Delivery, delay: float) -> None:
    """Raise InvalidArgument where the delivery cannot be put off, or not by this much."""
    if not delivery.queue.startswith(task_queue("")):
        raise InvalidArgument("NOT_A_TASK", f"a delivery of {delivery.queue} cannot be deferred: it has an order")
    if not delay > 0:
        raise InvalidArgument("BAD_DELAY", f"a delivery cannot be deferred by {delay:g} s; the delay must be above 0")
    if delivery.acked:
        raise RuntimeError(f"a delivery of {delivery.queue} was deferred after it was acked")


def pool_unknown(pool: str) -> NotFound:
    """What is raised for a pool that was not declared."""
    return NotFound("POOL_UNKNOWN", f"no pool {pool}; declare it with the fleet's shards first")


def queue_unknown(queue: str) -> NotFound:
    """What is raised for a queue that was not declared."""
    return NotFound("QUEUE_UNKNOWN", f"no queue {queue}; declare the fleet's shards and pools first")


def shards_changed(declared: int, shards: int) -> FailedPrecondition:
    """What is raised for another number of shards than mailboxes were made with."""
    return FailedPrecondition(
        "SHARDS_CHANGED",
        f"the mailboxes were made for {declared} shards, not {shards}; a fleet keeps the number that it began with",
    )
