"""Running seeds."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import structlog
from fault.simulation import loop as virtual
from fault.simulation_queues.embedded import EmbeddedWorld
from fault.simulation_queues.history import History
from fault.simulation_queues.people import Moment
from fault.simulation_queues.world import LIMIT, World

from troupe.broker import metrics
from troupe.broker.rabbitmq import broker, lane, publisher, reading, subscription, topology
from troupe.broker.rabbitmq.publisher import Publisher


@dataclass(frozen=True, slots=True)
class Run:
    """What one seed came to."""

    seed: int
    violations: list[str]
    trace: list[str]
    counts: dict[str, int]


def simulate(seed: int, *, trace: bool = False, world: Callable[[int, History], World | EmbeddedWorld] = World) -> Run:
    """Run one seed. The same seed, on the same code, takes the same steps."""
    loop = virtual.VirtualLoop()
    history = History(loop.time, traced=trace)
    asyncio.set_event_loop(loop)
    loop.set_exception_handler(lambda _, context: history.violation("defect", repr(context)))
    try:
        with _virtual(seed, history):
            loop.run_until_complete(_run(seed, history, world))
    except (virtual.Stalled, virtual.Spinning) as error:
        history.violation(type(error).__name__.lower(), str(error))
    finally:
        with contextlib.suppress(virtual.Stalled, virtual.Spinning):
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(10.0))
        asyncio.set_event_loop(None)
        loop.close()
    return Run(seed, history.violations, history.lines, dict(history.counts))


async def _run(seed: int, history: History, world: Callable[[int, History], World | EmbeddedWorld]) -> None:
    await world(seed, history).run()


@contextlib.contextmanager
def _virtual(seed: int, history: History) -> Iterator[None]:
    """Clocks are the hosts', dice the seed's, and logs go to the trace."""
    dice = random.Random(seed)
    end = Publisher._end

    def ended(self: Publisher) -> None:
        for parcel in self._flight.values():
            history.excuse(parcel.body)
        end(self)

    def watch(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
        if event.get("exc_info"):
            history.violation("defect", str(dict(event)))
        history.log(f"    {dict(event)}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[watch])
    with contextlib.ExitStack() as stack:
        stack.callback(structlog.configure, **before)
        for module in (broker, publisher, reading, subscription):
            stack.enter_context(mock.patch.object(module, "time", Moment))
        for module in (lane, publisher, subscription):
            stack.enter_context(mock.patch.object(module, "random", dice))
        stack.enter_context(mock.patch.multiple(metrics, show_queue=mock.DEFAULT, hide_queue=mock.DEFAULT))
        stack.enter_context(mock.patch.object(topology, "DELIVERY_LIMIT", LIMIT))
        stack.enter_context(mock.patch.object(Publisher, "_end", ended))
        stack.enter_context(mock.patch.object(virtual, "MAX_JUMPS", 3_000_000))
        yield
