"""An event loop whose time is made up: where nothing is ready it jumps to the next timer."""

import asyncio
import contextvars
import itertools
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any

MAX_ROUNDS = 50_000
"""Rounds of the loop within one instant from which on it is taken to spin."""
MAX_JUMPS = 100_000
"""Rounds of one run: the longest that comes to an end takes some 6,000."""


class Stalled(Exception):
    """Nothing is ready, and no timer is set: whoever waits waits for ever."""


class Spinning(Exception):
    """The loop goes round and time does not pass, or there is no end to it."""


class Process:
    """What tasks belong to. Code that runs in `context` spawns tasks of this process, as do those tasks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tasks: dict[int, SimulatedTask] = {}
        self.context = contextvars.copy_context()
        self.context.run(_process.set, self)

    def cancel(self) -> None:
        """Cancel all its tasks, in the order in which they began."""
        for task in list(self.tasks.values()):
            task.cancel()


_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class SimulatedTask(asyncio.Task[Any]):
    """Sets of tasks are walked in the same order each time."""

    def __init__(self, coro: Coroutine[Any, Any, Any], loop: "VirtualLoop", **options: Any) -> None:
        self.serial = next(loop.serial)
        super().__init__(coro, loop=loop, **options)
        context = options.get("context")
        process = context.get(_process) if context is not None else _process.get()
        if process is not None:
            process.tasks[self.serial] = self
            self.add_done_callback(lambda task: process.tasks.pop(self.serial, None))

    def __hash__(self) -> int:
        return self.serial


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs deterministically. `run_until_complete` raises Stalled and Spinning."""

    def __init__(self) -> None:
        self.serial = itertools.count()
        self._instant = 0.0
        self._rounds = self._jumps = 0
        super().__init__(_NoFiles(self))
        self.set_task_factory(lambda loop, coro, **options: SimulatedTask(coro, self, **options))

    def time(self) -> float:
        return self._instant

    def jump(self, seconds: float | None) -> None:
        """Let this much time pass; None is the wait of a loop without timers."""
        if seconds is None:
            raise Stalled(f"at {self._instant:.3f} s")
        self._jumps += 1
        if self._jumps == MAX_JUMPS:
            raise Spinning(f"without an end, at {self._instant:.3f} s")
        if seconds > 0:
            self._instant += seconds
            self._rounds = 0
            return
        self._rounds += 1
        if self._rounds > MAX_ROUNDS:
            self._rounds = 0
            raise Spinning(f"at {self._instant:.3f} s")


class _NoFiles(selectors.BaseSelector):
    """Waits for nothing but time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.jump(timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys
