"""Telling a session's owner what was recorded for it, so that it need not find out by itself, with the next write of
the turn concerned or with its next sweep. Best effort: whatever was recorded binds without it."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final

import structlog

from troupe.broker.addressing import SessionKey
from troupe.chassis.errors import TroupeError
from troupe.dataplane.actors.host import Host
from troupe.dataplane.following import Following, bare
from troupe.dataplane.peers import Peers
from troupe.dataplane.placement import ShardOwner
from troupe.v1 import agent_pb2
from troupe.v1.agent_pb2 import ControlTurnsRequest, MessageRef, Verb
from troupe.v1.promise_pb2 import PromiseRef

MAX_NUDGES: Final = 256
"""Calls to other owners under way at once; what is beyond goes without."""

log = structlog.get_logger()


class Nudges:
    """One gateway's. Its calls run in `tasks` until they are done, or `close`."""

    def __init__(self, host: Host, following: Following, peers: Peers, tasks: asyncio.TaskGroup) -> None:
        self._host, self._following, self._peers, self._tasks = host, following, peers, tasks
        self._calls: set[asyncio.Task[None]] = set()

    def verb(
        self,
        verb: Verb.ValueType,
        verb_id: str,
        messages: Iterable[tuple[SessionKey, str]],
        *,
        lifts: str = "",
        here_only: bool = False,
    ) -> None:
        """This verb was recorded for these messages. `here_only`: another worker says so, to this one alone."""
        elsewhere: dict[ShardOwner, list[MessageRef]] = {}
        for key, message_id in messages:
            self._host.nudge(self._following.shard(key), key)
            if not here_only and (owner := self._following.owner(key)) is not None:
                elsewhere.setdefault(owner, []).append(MessageRef(session=bare(key), message_id=message_id))
        for owner, refs in elsewhere.items():
            request = ControlTurnsRequest(verb=verb, verb_id=verb_id, messages=refs, lifts=lifts)
            if verb == agent_pb2.VERB_RESTART:
                request.from_step = 0  # it is required; what was recorded under the verb's id is what counts
            self._call(owner, self._peers.control(owner, request))

    def settled(self, key: SessionKey, promise_id: str, *, here_only: bool = False) -> None:
        """This promise of the session was settled."""
        self._host.nudge(self._following.shard(key), key)
        if not here_only and (owner := self._following.owner(key)) is not None:
            self._call(owner, self._peers.settled(owner, PromiseRef(session=bare(key), promise_id=promise_id)))

    def close(self) -> None:
        """Give up what is under way."""
        for call in self._calls:
            call.cancel()

    def _call(self, owner: ShardOwner, work: Coroutine[Any, Any, None]) -> None:
        if len(self._calls) >= MAX_NUDGES:
            work.close()
            return
        call = self._tasks.create_task(_told(owner, work))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)


async def _told(owner: ShardOwner, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except TroupeError as error:
        log.info("owner not told", worker=owner.worker_id, error=str(error))
