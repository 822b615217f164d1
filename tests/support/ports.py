"""Ports of this machine, where tests run side by side: ones that nobody else takes, and those that services take
themselves."""

import fcntl
import os
import random
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

DEFAULT = (7070, 7071, 7072)
"""Where worker, control plane and simulator listen, where nobody names an address."""
ELSEWHERE = {"TROUPE_CONFIG": str(Path(__file__).with_name("elsewhere.toml"))}
"""Variables with which services listen at ports that the system picks, and not at the default ones. A fleet that goes
and comes back there could meet the clients of another one."""
_FREE = range(20_000, 32_000)
"""Below those that the system picks for others, which it might do before a server gets to bind one."""
_PATIENCE = 20.0
_dice = random.SystemRandom()  # what Hypothesis seeds falls alike in every process
_own: set[int] = set()


def free(count: int = 1) -> list[int]:
    """Ports at which nobody listens, and that this process has for its own as long as it lives: a server may go and
    come back there."""
    with ExitStack() as probes:
        found: list[int] = []
        for port in _dice.sample(_FREE, len(_FREE)):
            probe = probes.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                if port not in _own:
                    fcntl.lockf(_owners(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
                    found.append(port)
            if len(found) == count:
                _own.update(found)
                return found
    raise AssertionError(f"nobody can listen at {count} of the ports {_FREE}")


@cache
def _owners() -> int:
    """A file, as a descriptor, whose byte of a port's number is locked by the process that has the port."""
    return os.open(Path(tempfile.gettempdir(), f"troupe-ports-{os.getuid()}"), os.O_RDWR | os.O_CREAT, 0o600)


@contextmanager
def taken() -> Iterator[None]:
    """Somebody listens at each default port, all the while. One test at a time can have it so: the next one waits, and
    for a while also for others that come and go, such as the tests of another checkout."""
    with Path(__file__).open() as turn, ExitStack() as held:
        fcntl.flock(turn, fcntl.LOCK_EX)
        deadline = time.monotonic() + _PATIENCE
        for port in DEFAULT:
            listener = held.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            while True:
                try:
                    listener.bind(("127.0.0.1", port))
                    listener.listen()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        break  # it is taken by one who stays, which is as good
                    time.sleep(0.05)
        yield
