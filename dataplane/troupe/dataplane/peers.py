"""The other workers of the fleet, as this one calls them.

What is passed on to them says so in its metadata, and is answered from what they have: it is never passed on again.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from troupe.chassis.errors import DeadlineExceeded
from troupe.chassis.rpc_client import Credentials, channel, translated
from troupe.dataplane.placement import ShardOwner
from troupe.v1.agent_pb2 import (
    ControlTurnsRequest,
    ControlTurnsResponse,
    DeleteSessionRequest,
    DeleteSessionResponse,
    GetMessageRequest,
    GetSessionRequest,
    GetSessionResponse,
    MessageStatus,
    SubscribeRequest,
)
from troupe.v1.agent_pb2_grpc import AgentServiceStub
from troupe.v1.promise_pb2 import GetPromiseRequest, PromiseRef
from troupe.v1.promise_pb2_grpc import PromiseServiceStub
from troupe.v1.turn_pb2 import Event

if TYPE_CHECKING:
    from troupe.v1.agent_pb2_grpc import AgentServiceAsyncStub
    from troupe.v1.promise_pb2_grpc import PromiseServiceAsyncStub

RELAYED: Final = ("troupe-relayed", "1")
"""Metadata of a call that a worker passes on to the session's owner."""
MAX_PEERS: Final = 1_024
"""Channels that are kept, the last used ones: a few more than a fleet has workers."""
ATTACH: Final = 2.0
"""Seconds that a peer gets to say that a stream is open."""
ASK: Final = 1.0
"""Seconds that a peer gets for what can be answered from the store as well."""
TELL: Final = 5.0
"""Seconds that a peer gets to hear of what is recorded, or between two turns that it names."""
DELETE: Final = 15.0
"""Seconds that a peer gets to delete a session: a turn that runs is cancelled first."""


class Peers:
    """Channels to other workers. Each is opened when it is first used."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        self._credentials = credentials or Credentials()
        self._peers: OrderedDict[str, _Peer] = OrderedDict()

    def subscribe(self, owner: ShardOwner, request: SubscribeRequest) -> "Stream":
        """Begin to follow what the owner's worker shows."""
        return Stream(owner, self._stub(owner).Subscribe(request, metadata=(RELAYED,)))

    async def message(self, owner: ShardOwner, request: GetMessageRequest) -> MessageStatus:
        """Where the message stands. Raises TroupeError where the owner does not say."""
        with translated(owner.address):
            return (await self._stub(owner).GetMessage(request, timeout=ASK, metadata=(RELAYED,))).status

    async def session(self, owner: ShardOwner, request: GetSessionRequest) -> GetSessionResponse:
        """The session. Raises NotFound where the owner knows none, other TroupeErrors where it does not say."""
        with translated(owner.address):
            return await self._stub(owner).GetSession(request, timeout=ASK, metadata=(RELAYED,))

    async def delete(self, owner: ShardOwner, request: DeleteSessionRequest) -> DeleteSessionResponse:
        """Delete the session. Raises TroupeError: it may be deleted or not."""
        with translated(owner.address):
            return await self._stub(owner).DeleteSession(request, timeout=DELETE, metadata=(RELAYED,))

    async def control(self, owner: ShardOwner, request: ControlTurnsRequest) -> None:
        """Tell the owner of a verb that is recorded. Raises TroupeError where it does not hear."""
        with translated(owner.address):
            async for _ in self._stub(owner).ControlTurns(request, timeout=TELL, metadata=(RELAYED,)):
                pass

    async def selected(
        self, owner: ShardOwner, request: ControlTurnsRequest
    ) -> AsyncGenerator[ControlTurnsResponse, None]:
        """The owner's turns that the request's selector means, in its shards. Raises TroupeError where it does not say,
        or is silent for TELL."""
        call = self._stub(owner).ControlTurns(request, metadata=(RELAYED,))
        responses = aiter(call)
        try:
            with translated(owner.address):
                while True:
                    async with asyncio.timeout(TELL):
                        response = await anext(responses, None)
                    if response is None:
                        return
                    yield response
        except TimeoutError as error:
            raise DeadlineExceeded("OWNER_SILENT", f"{owner.worker_id} said nothing for {TELL:g} s") from error
        finally:
            call.cancel()

    async def settled(self, owner: ShardOwner, promise: PromiseRef) -> None:
        """Tell the owner that a promise is settled. Raises TroupeError where it does not hear."""
        with translated(owner.address):
            request = GetPromiseRequest(promise=promise)
            await self._peer(owner).promises.GetPromise(request, timeout=TELL, metadata=(RELAYED,))

    def _stub(self, owner: ShardOwner) -> "AgentServiceAsyncStub":
        return self._peer(owner).agents

    def _peer(self, owner: ShardOwner) -> "_Peer":
        peer = self._peers.get(owner.address)
        if peer is None:
            opened = channel(owner.address, self._credentials.tls, self._credentials.token)
            agents: Any = AgentServiceStub(opened)
            promises: Any = PromiseServiceStub(opened)
            peer = self._peers[owner.address] = _Peer(agents, promises)
        self._peers.move_to_end(owner.address)
        if len(self._peers) > MAX_PEERS:
            # Its channel goes when the calls on it have ended.
            self._peers.popitem(last=False)
        return peer


@dataclass(frozen=True, slots=True)
class _Peer:
    """What one worker serves, over one channel."""

    agents: "AgentServiceAsyncStub"
    promises: "PromiseServiceAsyncStub"


class Stream:
    """What one worker shows of a message or a session, from when this was made. `events` ends it."""

    def __init__(self, owner: ShardOwner, call: Any) -> None:
        self.owner = owner
        self._call, self._given_up = call, False

    def give_up(self) -> None:
        """The worker is gone, though its connection may stand: `events` is to end."""
        self._given_up = True
        self._call.cancel()

    def close(self) -> None:
        """Nobody will read it."""
        self._call.cancel()

    async def events(self) -> AsyncGenerator[Event, None]:
        """The events as they come. Raises TroupeError where the stream breaks, or is not open within ATTACH."""
        try:
            with translated(self.owner.address):
                async with asyncio.timeout(ATTACH):
                    await self._call.initial_metadata()
                async for response in self._call:
                    yield response.event
        except TimeoutError as error:
            raise DeadlineExceeded(
                "NOT_ATTACHED", f"{self.owner.worker_id} at {self.owner.address} opened no stream within {ATTACH:g} s"
            ) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._given_up or (task is not None and task.cancelling()):
                raise
        finally:
            self._call.cancel()
