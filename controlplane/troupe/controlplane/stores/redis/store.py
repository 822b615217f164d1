"""The revision store on Redis: what each script is called with, and what its reply means."""

import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from troupe.chassis.errors import DataLoss, Unavailable
from troupe.chassis.redis_address import Address, address
from troupe.controlplane.placement import Placement
from troupe.controlplane.revisions import Head, Summary, summary
from troupe.controlplane.stores import rules
from troupe.controlplane.stores.port import KnownWorker, Leadership
from troupe.controlplane.stores.redis import layout, scripts
from troupe.controlplane.stores.redis.link import USE, Link
from troupe.controlplane.stores.redis.scripts import Script
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.rollout_pb2 import Rollout

T = TypeVar("T")


class RedisRevisionStore:
    """See `troupe.controlplane.stores.port.RevisionStore`. Any number of control planes may use one."""

    def __init__(self, link: Link, address: Address, shard_count: int) -> None:
        self._link, self._address = link, address
        self._fleet = _fleet(address)
        self._writes = itertools.count(1)
        self.shard_count = shard_count

    @staticmethod
    @contextlib.asynccontextmanager
    async def opened(
        url: str, shard_count: int, *, allow_volatile: bool = False
    ) -> AsyncIterator["RedisRevisionStore"]:
        """The store at `url`: `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE][?prefix=NAME]`, `rediss://` with TLS;
        created with `shard_count` shards where it is missing.

        Raises, each with one sentence of what to do: InvalidArgument for the URL; Unavailable where no Redis answers;
        FailedPrecondition where the server refuses, is a replica or a node of a cluster, is too old, or, unless
        `allow_volatile`, does not keep what it confirms."""
        place = address(url, USE.store)
        async with Link.opened(place, allow_volatile=allow_volatile) as link:
            found = await link.call(scripts.CREATE, _fleet(place), shard_count)
            yield RedisRevisionStore(link, place, int(found))

    async def leadership(self) -> Leadership:
        *record, _, _ = await self._asked(scripts.LEADERSHIP)
        return self._decoded(lambda: layout.leadership(record), "the record of leadership")

    async def lead(self, seen: Leadership, holder: str, address: str, beyond: int = 0) -> Leadership:
        return await self._change(seen, rules.led(seen, holder, address, beyond))

    async def renew(self, held: Leadership) -> Leadership:
        return await self._change(held, rules.renewed(held))

    async def resign(self, held: Leadership) -> None:
        await self._asked(scripts.RESIGN, held.term, held.holder)

    async def head(self) -> Head:
        term, _, _, _, generation, revision_id = await self._asked(scripts.LEADERSHIP)
        return self._decoded(lambda: layout.head(term, generation, revision_id), "the newest revision")

    async def commit(self, config: ConfigSpec, created_at: float, after: Head, rollouts: Sequence[Rollout]) -> None:
        own, *before = rollouts
        about = summary(config, created_at)
        await self._written(
            scripts.COMMIT,
            after.term,
            after.generation,
            after.revision_id,
            rules.outdated(about.generation),
            *(layout.rolled(before[0]) if before else ("", "")),
            about.revision_id,
            about.generation,
            int(rules.complete(own)),
            *_flat(layout.revision_fields(config, about, own)),
        )

    async def revision(self, revision_id: str) -> tuple[ConfigSpec, Summary] | None:
        return self._found(await self._asked(scripts.REVISION, revision_id), f"revision {revision_id}")

    async def revisions(self, limit: int, before: int | None = None) -> list[Summary]:
        rows = await self._asked(scripts.REVISIONS, _below(before), limit)
        return self._decoded(lambda: [layout.summary(row) for row in rows], "a revision")

    async def last_complete(self, before: int) -> tuple[ConfigSpec, Summary] | None:
        found = await self._asked(scripts.LAST_COMPLETE, _below(before))
        return self._found(found, "the newest complete revision")

    async def save_rollouts(self, rollouts: Sequence[tuple[str, Rollout]], term: int) -> None:
        each = ((revision_id, *layout.rolled(rollout)) for revision_id, rollout in rollouts)
        await self._written(scripts.SAVE_ROLLOUTS, term, *(part for parts in each for part in parts))

    async def placement(self) -> Placement:
        version, content = await self._asked(scripts.PLACEMENT)
        return self._decoded(lambda: layout.placement(version, content, self.shard_count), "the placement")

    async def save_placement(self, placement: Placement, term: int) -> None:
        version = placement.version
        await self._written(scripts.SAVE_PLACEMENT, term, version - 1, version, layout.packed(placement))

    async def workers(self) -> Sequence[KnownWorker]:
        rows = await self._asked(scripts.WORKERS)
        return self._decoded(
            lambda: [layout.worker(worker_id, fields) for worker_id, fields in sorted(rows)],
            "what is known of a worker",
        )

    async def remember_worker(self, worker: KnownWorker, term: int) -> None:
        fields = _flat(layout.worker_fields(worker))
        await self._written(scripts.REMEMBER_WORKER, term, worker.member.worker_id, *fields)

    async def forget_worker(self, worker_id: str, term: int) -> None:
        await self._written(scripts.FORGET_WORKER, term, worker_id)

    async def _change(self, seen: Leadership, record: Leadership) -> Leadership:
        await self._asked(scripts.LEAD, *layout.record(seen), *layout.record(record))
        return record

    async def _written(self, script: Script, term: int, *arguments: bytes | str | int) -> None:
        """A write in this term. The link sends calls in the order in which they are made; so they are counted."""
        await self._asked(script, f"{term}:{next(self._writes)}", *arguments)

    async def _asked(self, script: Script, *arguments: bytes | str | int) -> Sequence[Any]:
        """What a script answers that is carried out. Raises what the port says where it is refused."""
        reply: Sequence[Any]
        status, *reply = await self._link.call(script, self._fleet, *arguments)
        match status:
            case b"OK":
                return reply
            case b"TERM":
                raise rules.deposed(int(reply[0]), int(str(arguments[0]).partition(":")[0]))
            case b"LATE":
                raise Unavailable("STORE_UNAVAILABLE", "a later write was carried out before: ask again")
            case b"CHANGED":
                raise rules.leadership_changed(layout.leadership(reply))
            case b"HEAD":
                raise rules.head_moved(layout.head(*reply))
            case b"PLACEMENT":
                raise rules.placement_moved(int(reply[0]))
        raise self._broken("the fleet's record")

    def _found(self, reply: Sequence[Any], what: str) -> tuple[ConfigSpec, Summary] | None:
        if not reply:
            return None
        about, config = reply
        return self._decoded(lambda: (ConfigSpec.FromString(config), layout.summary(about)), what)

    def _decoded(self, decode: Callable[[], T], what: str) -> T:
        try:
            return decode()
        except (DecodeError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise self._broken(what) from error

    def _broken(self, what: str) -> DataLoss:
        return DataLoss(
            "DATA_BROKEN",
            f"{what} in Redis at {self._address.shown} (keys that begin with {self._address.prefix}) cannot be read; "
            "restore its data from a backup",
        )


def _fleet(address: Address) -> str:
    return f"{address.prefix}{{controlplane}}:fleet"


def _below(generation: int | None) -> str:
    """The upper bound of a range of scores."""
    return "+inf" if generation is None else f"({generation}"


def _flat(fields: Mapping[str, bytes | str | int]) -> Iterator[bytes | str | int]:
    for field in fields.items():
        yield from field
