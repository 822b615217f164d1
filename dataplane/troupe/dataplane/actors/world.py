"""What an actor needs of the worker around it."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.broker.port import Broker
from troupe.chassis import fault_points
from troupe.chassis.clock import Clock
from troupe.chassis.errors import Unavailable
from troupe.chassis.outage import Outages
from troupe.dataplane.actors.behaviour import Behaviour
from troupe.dataplane.actors.hub import Hub
from troupe.dataplane.actors.patience import Patience
from troupe.dataplane.state.port import StateStore
from troupe.dataplane.state.session import Owner

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ending:
    """How one message ended, for those who watch revisions and load."""

    generation: int
    """Of the revision that its last attempt ran under; 0 where none did."""
    hopeless: bool
    """It failed, and no other attempt could have succeeded."""
    latency: float | None
    """Seconds from its publish confirm, where it was answered."""


@dataclass(frozen=True, slots=True)
class World:
    """The worker, as its actors see it."""

    store: StateStore
    broker: Broker
    hub: Hub
    clock: Clock
    worker_id: str
    behaviour: Callable[[SessionKey], Behaviour | None]
    """What runs the session's messages now; None for a target that the running revision does not know."""
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    """Run something beside; it is cancelled when the worker stops."""
    fenced: Callable[[Owner, int], None]
    """The store refused this owner: its shard is another's, under that epoch."""
    scheduled: Callable[[Owner, float], None]
    """Something is due in this owner's shard then, in seconds since the epoch: see to it that it is not late."""
    defective: Callable[[Owner], None]
    """The runtime itself failed on a message of this shard: its messages are to come again."""
    ended: Callable[[Ending], None]
    """A message was answered or given up."""
    order_timeout: float
    handover_timeout: float | None
    """Seconds that a turn may go on under its mark; None: its behaviour's deadline."""
    is_live: Callable[[str], bool]
    """Whether this instance may still run turns, as far as anybody knows."""
    goes_on: Callable[[SessionKey, Number], bool]
    """Whether this worker runs the message in a session that was handed over."""
    dice: Callable[[], float] = field(default=random.random)
    """Uniform in [0, 1)."""
    patience: Patience = field(default_factory=Patience)
    """Of the store's commits, over all sessions."""
    outages: Outages = field(init=False)
    """Of store and broker, as far as all that is tried again shares a line in the log."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "outages", Outages(self.clock.monotonic))

    async def persist(self, what: str, write: Callable[[], Awaitable[T]]) -> T:
        """Repeat `write` until the store or broker takes it: what must be written has nowhere else to go, and the
        message that it is about stays with us meanwhile. Other errors than Unavailable are raised."""
        delay, outage = 0.1, self.outages["cannot persist, trying again", what]
        while True:
            fault_points.reach(f"{what}.before")
            try:
                done = await write()
            except Unavailable as error:
                outage.failed(error, what=what)
                await self.clock.sleep(delay)
                delay = min(5.0, delay * 2)
            else:
                outage.over()
                fault_points.reach(f"{what}.after")
                return done
