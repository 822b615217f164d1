"""What a command trusts and shows to the servers that it calls."""

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple


class Shown(NamedTuple):
    """PEM files and a bearer token (or `@FILE` that holds it); each empty where not given."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    token: str = ""


_shown: ContextVar[Shown | None] = ContextVar("troupe_shown", default=None)


def shown() -> Shown:
    """What this command was told; the environment's for a command without such options."""
    told = _shown.get()
    if told is not None:
        return told
    return Shown(*(os.environ.get(f"TROUPE_{name}", "") for name in ("TLS_CA", "TLS_CERT", "TLS_KEY", "TOKEN")))


@contextlib.contextmanager
def showing(told: Shown) -> Iterator[None]:
    """What the command inside was told by its options and their variables."""
    before = _shown.set(told)
    try:
        yield
    finally:
        _shown.reset(before)
