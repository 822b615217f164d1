"""From a URL to a state store."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from troupe.chassis.errors import InvalidArgument, Unimplemented
from troupe.dataplane.state.memory import MemoryStateStore
from troupe.dataplane.state.port import StateStore
from troupe.dataplane.state.sqlite import SqliteStateStore


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[StateStore]:
    """The store that `url` names: `sqlite:///PATH` (four slashes for an absolute path) or `memory://`. Raises
    InvalidArgument for any other URL, Unimplemented for `redis://`, and what SqliteStateStore.opened raises."""
    scheme, _, path = url.partition(":///")
    if url == "memory://":
        yield MemoryStateStore()
    elif scheme == "sqlite" and path not in ("", ":memory:"):
        async with SqliteStateStore.opened(Path(path)) as store:
            yield store
    elif url.startswith(("redis://", "rediss://")):
        raise Unimplemented(
            "NOT_BUILT", "the Redis state store is not built yet; use sqlite:///PATH, which is durable on one machine"
        )
    else:
        raise InvalidArgument(
            "BAD_STATE_URL", f"no state store at {url!r}: the URL must be sqlite:///PATH or memory://"
        )
