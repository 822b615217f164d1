"""From a URL to a revision store. A server's client is imported for a URL of that server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from troupe.chassis.errors import InvalidArgument
from troupe.controlplane.stores.memory import MemoryRevisionStore
from troupe.controlplane.stores.port import RevisionStore
from troupe.controlplane.stores.sqlite import SqliteRevisionStore


@asynccontextmanager
async def connected(url: str, shard_count: int) -> AsyncIterator[RevisionStore]:
    """The store that `url` names: `redis://HOST` or `rediss://HOST`, `sqlite:///PATH` (four slashes for an absolute
    path) or `memory://`, created with `shard_count` shards where it is missing. Raises InvalidArgument for any other
    URL, and what the stores' `opened` do."""
    scheme, _, rest = url.partition("://")
    match scheme:
        case "memory" if not rest:
            yield MemoryRevisionStore(shard_count)
        case "sqlite" if rest.startswith("/") and rest != "/":
            async with SqliteRevisionStore.opened(Path(rest.removeprefix("/")), shard_count) as store:
                yield store
        case "redis" | "rediss":
            from troupe.controlplane.stores.redis.store import RedisRevisionStore

            async with RedisRevisionStore.opened(url, shard_count) as redis:
                yield redis
        case _:
            raise InvalidArgument(
                "BAD_STORE_URL",
                f"no revision store at {url!r}: the URL must be redis://HOST, rediss://HOST, sqlite:///PATH or "
                "memory://",
            )
