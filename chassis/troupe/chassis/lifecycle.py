"""The life of a process: run until told to stop, stop well, and at once when told twice."""

import asyncio
import contextlib
import gc
import os
import signal
import sys
import termios
from collections.abc import Awaitable, Callable, Generator, Iterator
from types import FrameType
from typing import Any, Literal

SIGNALS = (signal.SIGINT, signal.SIGTERM)
YOUNG = 20_000
"""Objects more than there were at which the garbage collector looks at young ones: half a millisecond. What the calls
and turns of a busy service hold at a time is as much and no garbage (a turn leaves no cycle), and Python's 700 would
have it looked at for every few of them."""
AT_ONCE = 130
"""Exit status after the second signal: that of a process that SIGINT ended."""


class Stop(asyncio.Event):
    """Set when the process shall stop. `await stop` waits for it."""

    def __await__(self) -> Generator[Any, None, Literal[True]]:
        return self.wait().__await__()


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import inside what a service is made of, before `run`. That stays as long as the process, so the garbage
    collector looks at it neither while it grows, a sixth of a start, nor later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def run(main: Callable[[Stop], Awaitable[int]]) -> int:
    """Run `main` on an event loop of its own and give what it returns; its exceptions pass through.

    The first SIGINT or SIGTERM sets `Stop`, and it is for `main` to return soon. The second one puts the terminal
    back as it was and ends the process with `AT_ONCE`, also while the loop is stuck in Python code. The handlers
    that were there before come back at the end. Call it from the main thread.
    """
    terminal = _Terminal()
    stop = Stop()
    runner = asyncio.Runner()
    loop = runner.get_loop()
    signalled = False

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal signalled
        if signalled:
            terminal.restore()
            os._exit(AT_ONCE)
        signalled = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: the end is near anyway
            loop.call_soon_threadsafe(stop.set)

    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
    before = {number: signal.signal(number, on_signal) for number in SIGNALS}
    try:
        with runner:
            return runner.run(_awaited(main(stop)))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _awaited(work: Awaitable[int]) -> int:
    return await work


class _Terminal:
    """How the terminal was when the process started: progress bars hide the cursor, prompts switch echo off."""

    def __init__(self) -> None:
        self._modes: list[Any] | None = None
        with contextlib.suppress(termios.error, OSError, ValueError):
            self._modes = termios.tcgetattr(sys.stdin.fileno())

    def restore(self) -> None:
        """Safe in a signal handler: no buffers, no locks."""
        with contextlib.suppress(termios.error, OSError, ValueError):
            if self._modes is not None:
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, self._modes)
        for stream in (1, 2):
            with contextlib.suppress(OSError):
                if os.isatty(stream):
                    os.write(stream, b"\x1b[?25h\x1b[0m\n")
                    return
