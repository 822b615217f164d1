"""Running seeds."""

import asyncio
import contextlib
import itertools
import random
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import structlog
from fault.simulation.climate import CLIMATES, Climate
from fault.simulation.history import History, Violation
from fault.simulation.loop import Spinning, Stalled, VirtualLoop
from fault.simulation.world import World

_IDS = (
    "troupe.dataplane.actors.gap",
    "troupe.dataplane.actors.settle",
    "troupe.dataplane.actors.shard",
    "troupe.dataplane.gateway",
    "troupe.dataplane.sending",
    "troupe.dataplane.sessions",
)


@dataclass(frozen=True, slots=True)
class Run:
    """What one seed came to."""

    seed: int
    violations: list[Violation]
    trace: list[str]
    counts: dict[str, int]


def simulate(
    seed: int, *, trace: bool = False, climates: Sequence[Callable[[random.Random], Climate]] = CLIMATES
) -> Run:
    """Run one seed. The same seed, on the same code, takes the same steps."""
    loop = VirtualLoop()
    history = History(loop.time, traced=trace)
    with _numbered_ids(), _watched_logs(history):
        try:
            loop.run_until_complete(_run(seed, history, climates))
        except (Stalled, Spinning) as error:
            history.violation(type(error).__name__.lower(), str(error))
        finally:
            _close(loop)
    return Run(seed, history.violations, history.lines, dict(history.counts))


async def _run(seed: int, history: History, climates: Sequence[Callable[[random.Random], Climate]]) -> None:
    await World(seed, history, climates).run()


def _close(loop: VirtualLoop) -> None:
    """Whatever state the run left it in."""
    with contextlib.suppress(Stalled, Spinning):
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(1.0))
        loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@contextlib.contextmanager
def _numbered_ids() -> Iterator[None]:
    """Ids are the same each time."""
    numbers = itertools.count(1)
    with contextlib.ExitStack() as stack:
        for module in _IDS:
            stack.enter_context(mock.patch(f"{module}.uuid7", lambda: f"u{next(numbers):04}"))
        yield


@contextlib.contextmanager
def _watched_logs(history: History) -> Iterator[None]:
    """The runtime calls its own defects by name; all else that it logs goes to the trace."""

    def watch(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        if "defect" in str(event["event"]) or event.get("exc_info"):
            history.violation("defect", _line(event))
        history.log(f"    {_line(event)}")
        raise structlog.DropEvent

    before = structlog.get_config()
    level = 0 if history.traced else 40
    structlog.configure(processors=[watch], wrapper_class=structlog.make_filtering_bound_logger(level))
    try:
        yield
    finally:
        structlog.configure(**before)


def _line(event: Mapping[str, Any]) -> str:
    error = event.get("exc_info")
    if error is True:
        error = sys.exc_info()[1]
    fields = " ".join(f"{name}={value}" for name, value in event.items() if name not in ("event", "exc_info"))
    return f"{event['event']} {fields}" + (f": {error!r}" if error else "")
