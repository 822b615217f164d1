"""From a URL to a state store. A server's client is imported for a URL of that server."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from troupe.chassis.errors import InvalidArgument
from troupe.dataplane.state.memory import MemoryStateStore
from troupe.dataplane.state.port import StateStore
from troupe.dataplane.state.sqlite import SqliteStateStore


@contextlib.asynccontextmanager
async def connected(url: str, *, allow_volatile: bool = False) -> AsyncIterator[StateStore]:
    """The store that `url` names: `redis://HOST` or `rediss://HOST`, `sqlite:///PATH` (four slashes for an absolute
    path) or `memory://`. `allow_volatile` is about Redis alone: one that does not keep what it confirms is taken too.
    Raises InvalidArgument for any other URL, and what the stores' `opened` do."""
    scheme, _, path = url.partition(":///")
    if url == "memory://":
        yield MemoryStateStore()
    elif scheme == "sqlite" and path not in ("", ":memory:"):
        async with SqliteStateStore.opened(Path(path)) as store:
            yield store
    elif url.startswith(("redis://", "rediss://")):
        from troupe.dataplane.state.redis.store import RedisStateStore

        async with RedisStateStore.opened(url, allow_volatile=allow_volatile) as redis:
            yield redis
    else:
        raise InvalidArgument(
            "BAD_STATE_URL",
            f"no state store at {url!r}: the URL must be redis://HOST, rediss://HOST, sqlite:///PATH or memory://",
        )
