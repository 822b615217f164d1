import gc
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from troupe.chassis import lifecycle

Process = subprocess.Popen[str]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    """Starts a program whose coroutine `main(stop)` is given, and waits until it has printed `ready`."""
    started: list[Process] = []

    def run(main: str, stdin: int | None = None, stderr: int | None = None) -> Process:
        program = tmp_path / "program.py"
        program.write_text(
            "import asyncio, sys, time\nfrom troupe.chassis import lifecycle\n\n"
            + textwrap.dedent(main)
            + "\nsys.exit(lifecycle.run(main))\n"
        )
        process = subprocess.Popen(
            [sys.executable, str(program)], stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


WAITS = """
    async def main(stop):
        print("ready", flush=True)
        await stop
        print("stopping", flush=True)
        return 3
"""

IS_STUCK = """
    async def main(stop):
        print("ready", flush=True)
        await stop.wait()
        print("stopping", flush=True)
        while True:
            time.sleep(0.01)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_stops_well(start, number: signal.Signals) -> None:  # type: ignore[no-untyped-def]
    process = start(WAITS)
    process.send_signal(number)
    out, _ = process.communicate(timeout=10)
    assert (out, process.returncode) == ("stopping\n", 3)


def test_the_second_signal_ends_at_once_even_when_the_loop_is_stuck(start) -> None:  # type: ignore[no-untyped-def]
    process = start(IS_STUCK)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "stopping\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130


def test_the_second_signal_leaves_the_terminal_as_it_was(start) -> None:  # type: ignore[no-untyped-def]
    # Given a program that switches echo off at a terminal, as a prompt for a password does
    ours, its = pty.openpty()
    before = termios.tcgetattr(its)
    process = start(
        """
        async def main(stop):
            import termios
            modes = termios.tcgetattr(0)
            modes[3] &= ~termios.ECHO
            termios.tcsetattr(0, termios.TCSANOW, modes)
            print("ready", flush=True)
            await stop
            print("stopping", flush=True)
            await asyncio.Event().wait()
        """,
        stdin=its,
        stderr=its,
    )
    assert termios.tcgetattr(its)[3] != before[3]
    # When it is told twice
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "stopping\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130
    # Then echo is on and the cursor shown
    assert termios.tcgetattr(its)[3] == before[3]
    assert select.select([ours], [], [], 5)[0]
    assert b"\x1b[?25h" in os.read(ours, 1000)
    os.close(its)
    os.close(ours)


def test_handlers_are_put_back_and_the_result_is_given() -> None:
    before = [signal.getsignal(number) for number in lifecycle.SIGNALS]

    async def main(stop: lifecycle.Stop) -> int:
        assert not stop.is_set()
        assert [signal.getsignal(number) for number in lifecycle.SIGNALS] != before
        return 7

    assert lifecycle.run(main) == 7
    assert [signal.getsignal(number) for number in lifecycle.SIGNALS] == before


def test_errors_pass_through_and_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in lifecycle.SIGNALS]

    async def main(_stop: lifecycle.Stop) -> int:
        raise LookupError("no data directory")

    with pytest.raises(LookupError, match="no data directory"):
        lifecycle.run(main)
    assert [signal.getsignal(number) for number in lifecycle.SIGNALS] == before


def test_a_signal_wakes_a_program_that_only_waits() -> None:
    async def main(stop: lifecycle.Stop) -> int:
        begun = time.monotonic()
        os.kill(os.getpid(), signal.SIGTERM)
        await stop
        return int(time.monotonic() - begun)

    assert lifecycle.run(main) == 0


def test_the_garbage_collector_rests_while_a_service_is_imported_and_passes_it_over_from_then_on() -> None:
    frozen = gc.get_freeze_count()
    try:
        with lifecycle.importing():
            assert not gc.isenabled()
            imported: list[list[int]] = [[] for _ in range(100)]

        assert gc.isenabled()
        assert gc.get_freeze_count() >= frozen + len(imported)
    finally:
        gc.unfreeze()
