"""What a person types, and how they end it."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator

import pytest

from troupe.cli.asking import typed


class Interrupted:
    """An stdin at which Ctrl-C is typed before anything else."""

    def __init__(self) -> None:
        self.read_on = False

    def read(self) -> str:
        signal.raise_signal(signal.SIGINT)
        self.read_on = True
        return "text"


@contextlib.contextmanager
def handling(handler: "signal._HANDLER") -> Iterator[None]:
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_what_a_command_reads_on_its_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = Interrupted()
    monkeypatch.setattr(sys, "stdin", stdin)

    async def command() -> str:
        return typed()

    with handling(signal.default_int_handler), pytest.raises(KeyboardInterrupt):
        asyncio.run(command())
    assert not stdin.read_on


def test_where_ctrl_c_means_nothing_it_does_so_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a shell's background job."""
    monkeypatch.setattr(sys, "stdin", Interrupted())
    with handling(signal.SIG_IGN):
        assert typed() == "text"
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
