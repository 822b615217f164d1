"""The calls that commands make on a fleet, each with a deadline; the only module here that touches gRPC.

What a call raises is a TroupeError that says which server did not do it, and what to do about that.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc

from troupe.chassis.errors import InvalidArgument, NotFound, TroupeError, Unavailable, Unimplemented
from troupe.chassis.rpc_errors import error_from
from troupe.chassis.rpc_options import CLIENT
from troupe.chassis.servers import NOT_LEADER, Servers, addresses, is_elsewhere
from troupe.chassis.wire import duration
from troupe.cli.credentials import shown
from troupe.v1 import agent_pb2, control_plane_pb2, dead_letter_pb2, promise_pb2, turn_pb2
from troupe.v1.agent_pb2_grpc import AgentServiceStub
from troupe.v1.control_plane_pb2_grpc import ControlPlaneServiceStub
from troupe.v1.dead_letter_pb2 import DeadLetterFilter
from troupe.v1.dead_letter_pb2_grpc import DeadLetterServiceStub
from troupe.v1.envelope_pb2 import SessionRef
from troupe.v1.promise_pb2_grpc import PromiseServiceStub

T = TypeVar("T")

CALL_TIMEOUT = 10.0
"""Seconds that a call gets beside the time that it is asked to wait. Streams get no limit: keepalive watches them."""
DELETE_TIMEOUT = 60.0
"""The same for the deletion of a session: of its turns, each that runs or takes back what it did is waited for."""
ELECTION = 20.0
"""Seconds that another control plane gets to take over: the old one's lease, and a little more."""

PAGE = 100
"""Entries asked for in one call of a list."""
LETTERS_TIMEOUT, LETTERS_PAGE = 60.0, 1000
"""The same for dead letters: the broker shows all of them, one by one, in each call."""


@dataclass(frozen=True, slots=True)
class _Peer:
    """The other end, as errors name it."""

    what: str
    address: str
    option: str

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise self._explained(error_from(error, self.address)) from error

    def unreachable(self) -> Unavailable:
        return Unavailable(
            "UNREACHABLE",
            f"no {self.what} answers at {self.address}; start a fleet with `troupe up`, or name another address "
            f"with {self.option}",
        )

    def _explained(self, error: TroupeError) -> TroupeError:
        """What gRPC itself says (the reason is then the code's name) in this command's words."""
        match error:
            case Unavailable(reason="UNAVAILABLE"):
                return self.unreachable()
            case Unimplemented(reason="UNIMPLEMENTED"):
                return Unimplemented(
                    "OTHER_SERVICE",
                    f"what answers at {self.address} is no {self.what}; name its address with {self.option}",
                )
            case _:
                return error


class ControlPlane:
    """The control plane's calls. Of several control planes each call finds the one that does it; every call may be
    repeated, as those that write carry an id."""

    def __init__(self, named: Sequence[str], channels: contextlib.AsyncExitStack) -> None:
        self._named, self._servers, self._channels = named, Servers(named), channels
        self._stubs: dict[str, Any] = {}

    async def current(self) -> control_plane_pb2.GetRevisionResponse:
        """The current revision; an empty answer before the first."""
        try:
            return await self.revision("")
        except NotFound:
            return control_plane_pb2.GetRevisionResponse()

    async def revision(self, revision_id: str) -> control_plane_pb2.GetRevisionResponse:
        request = control_plane_pb2.GetRevisionRequest(revision_id=revision_id)
        return await self._asked(lambda stub: stub.GetRevision(request, timeout=CALL_TIMEOUT))

    async def sync(self, request: control_plane_pb2.SyncRequest) -> control_plane_pb2.RevisionInfo:
        """The committed revision. Aborted where the parent is not the current one."""
        response: control_plane_pb2.SyncResponse = await self._asked(
            lambda stub: stub.Sync(request, timeout=CALL_TIMEOUT)
        )
        return response.revision

    async def roll_back(self, request: control_plane_pb2.RollbackRequest) -> control_plane_pb2.RevisionInfo:
        """The revision that goes back. Aborted where the one to leave is not the current one."""
        response: control_plane_pb2.RollbackResponse = await self._asked(
            lambda stub: stub.Rollback(request, timeout=CALL_TIMEOUT)
        )
        return response.revision

    async def drain(self, worker_id: str) -> str:
        """The process of the worker that drains. NotFound where no such worker is alive."""
        request = control_plane_pb2.DrainRequest(worker_id=worker_id)
        response: control_plane_pb2.DrainResponse = await self._asked(
            lambda stub: stub.Drain(request, timeout=CALL_TIMEOUT)
        )
        return response.instance_id

    async def revisions(self) -> list[control_plane_pb2.RevisionInfo]:
        """All that are kept, newest first."""
        found: list[control_plane_pb2.RevisionInfo] = []
        token = ""
        while True:
            page = await self._page(control_plane_pb2.ListRevisionsRequest(page_size=PAGE, page_token=token))
            found.extend(page.revisions)
            token = page.next_page_token
            if not token:
                return found

    async def watch(self) -> AsyncGenerator[control_plane_pb2.WatchStatusResponse, None]:
        """Every worker's status, `synced`, then changes, until the stream breaks."""
        while True:
            met = False
            try:
                with self._peer().errors():
                    async for response in self._stub().WatchStatus(control_plane_pb2.WatchStatusRequest()):
                        met = True
                        yield response
                    return
            except TroupeError as error:
                if met or not is_elsewhere(error) or not self._servers.failed(error):
                    raise

    async def _page(self, request: control_plane_pb2.ListRevisionsRequest) -> control_plane_pb2.ListRevisionsResponse:
        return await self._asked(lambda stub: stub.ListRevisions(request, timeout=CALL_TIMEOUT))

    async def _asked(self, call: Callable[[Any], Awaitable[T]]) -> T:
        """What the first control plane answers that does it. Where one says that another leads, or will, it is waited
        for up to ELECTION seconds."""
        until, will_lead = time.monotonic() + ELECTION, False
        while True:
            try:
                with self._peer().errors():
                    response = await call(self._stub())
            except TroupeError as error:
                if not is_elsewhere(error):
                    raise
                will_lead |= error.reason == NOT_LEADER
                if self._servers.failed(error):
                    continue
                if not will_lead or time.monotonic() > until:
                    raise
                will_lead = False
                await asyncio.sleep(error.retry_after or 1.0)
            else:
                self._servers.answered()
                return response

    def _stub(self) -> Any:
        address = self._servers.address
        if address not in self._stubs:
            opened = _channel(address)
            self._channels.push_async_callback(opened.close)
            self._stubs[address] = ControlPlaneServiceStub(opened)
        return self._stubs[address]

    def _peer(self) -> _Peer:
        return _Peer("control plane", self._servers.address, "--server")


class Gateway:
    """A worker's calls for clients."""

    def __init__(self, channel: grpc.aio.Channel, address: str) -> None:
        self._channel = channel
        self._stub = AgentServiceStub(channel)
        self._peer = _Peer("worker", address, "--gateway")

    async def send(self, request: agent_pb2.SendRequest) -> agent_pb2.SendResponse:
        with self._peer.errors():
            wait = request.wait.ToTimedelta().total_seconds()
            return await self._stub.Send(request, timeout=wait + CALL_TIMEOUT)

    async def converse(
        self, message: agent_pb2.SendRequest, after: agent_pb2.EventPosition | None = None
    ) -> AsyncGenerator[turn_pb2.Event, None]:
        """The turn's events; with `after`, those that follow it. Ending the iteration detaches."""
        request = agent_pb2.ConverseRequest(message=message, after=after)
        with self._peer.errors():
            async for response in self._stub.Converse(request):
                yield response.event

    async def connected(self, within: float) -> None:
        """Return once the worker can be reached; Unavailable when it cannot `within` that many seconds."""
        try:
            async with asyncio.timeout(within):
                await self._channel.channel_ready()
        except TimeoutError as error:
            raise self._peer.unreachable() from error

    async def message(self, ref: agent_pb2.MessageRef, wait: float = 0.0) -> agent_pb2.MessageStatus:
        """Where it stands; waits up to `wait` seconds until it is settled."""
        request = agent_pb2.GetMessageRequest(session=ref.session, message_id=ref.message_id)
        if wait:
            request.wait.CopyFrom(duration(wait))
        with self._peer.errors():
            return (await self._stub.GetMessage(request, timeout=wait + CALL_TIMEOUT)).status

    async def control(self, request: agent_pb2.ControlTurnsRequest) -> list[agent_pb2.ControlTurnsResponse]:
        """One answer for each message, in the order of the request."""
        with self._peer.errors():
            return [answer async for answer in self._stub.ControlTurns(request, timeout=CALL_TIMEOUT)]

    async def control_selected(
        self, request: agent_pb2.ControlTurnsRequest
    ) -> AsyncGenerator[agent_pb2.ControlTurnsResponse, None]:
        """One answer for each message that the request's selector means, as they come. Ending the iteration ends it."""
        with self._peer.errors():
            async for answer in self._stub.ControlTurns(request):
                yield answer

    async def session(self, ref: SessionRef, history: int = 0) -> agent_pb2.GetSessionResponse:
        with self._peer.errors():
            request = agent_pb2.GetSessionRequest(session=ref, history=history)
            return await self._stub.GetSession(request, timeout=CALL_TIMEOUT)

    async def sessions(self, parent: SessionRef | None = None) -> list[agent_pb2.Session]:
        """All of an agent's, or all there are."""
        found: list[agent_pb2.Session] = []
        token = ""
        while True:
            request = agent_pb2.ListSessionsRequest(parent=parent, page_size=PAGE, page_token=token)
            with self._peer.errors():
                page = await self._stub.ListSessions(request, timeout=CALL_TIMEOUT)
            found.extend(page.sessions)
            token = page.next_page_token
            if not token:
                return found

    async def delete_session(self, ref: SessionRef) -> int:
        """How many messages were cancelled by it."""
        with self._peer.errors():
            request = agent_pb2.DeleteSessionRequest(session=ref)
            return (await self._stub.DeleteSession(request, timeout=DELETE_TIMEOUT)).cancelled


class Promises:
    """A worker's calls for what turns wait for."""

    def __init__(self, channel: grpc.aio.Channel, address: str) -> None:
        self._stub = PromiseServiceStub(channel)
        self._peer = _Peer("worker", address, "--gateway")

    async def list(self, parent: SessionRef, settled: bool, limit: int) -> tuple[Sequence[promise_pb2.Promise], bool]:
        """The first `limit`, and whether there are more."""
        found: list[promise_pb2.Promise] = []
        token = ""
        while True:
            request = promise_pb2.ListPromisesRequest(
                parent=parent, settled=settled, page_size=min(limit - len(found), PAGE), page_token=token
            )
            with self._peer.errors():
                page = await self._stub.ListPromises(request, timeout=CALL_TIMEOUT)
            found.extend(page.promises)
            token = page.next_page_token
            if not token or len(found) >= limit:
                return found, bool(token)

    async def get(self, request: promise_pb2.GetPromiseRequest) -> promise_pb2.Promise:
        with self._peer.errors():
            return (await self._stub.GetPromise(request, timeout=CALL_TIMEOUT)).promise

    async def resolve(self, request: promise_pb2.ResolveRequest) -> promise_pb2.ResolveResponse:
        with self._peer.errors():
            return await self._stub.Resolve(request, timeout=CALL_TIMEOUT)

    async def reject(self, request: promise_pb2.RejectRequest) -> promise_pb2.RejectResponse:
        with self._peer.errors():
            return await self._stub.Reject(request, timeout=CALL_TIMEOUT)


class DeadLetters:
    """A worker's calls for messages that were given up."""

    def __init__(self, channel: grpc.aio.Channel, address: str) -> None:
        self._stub = DeadLetterServiceStub(channel)
        self._peer = _Peer("worker", address, "--gateway")

    async def list(
        self, pool: str, chosen: DeadLetterFilter, limit: int
    ) -> tuple[Sequence[dead_letter_pb2.DeadLetter], bool]:
        """The oldest `limit` of those that are chosen, and whether there are more."""
        found: list[dead_letter_pb2.DeadLetter] = []
        token = ""
        while True:
            request = dead_letter_pb2.ListDeadLettersRequest(
                pool=pool, filter=chosen, page_size=min(limit - len(found), LETTERS_PAGE), page_token=token
            )
            with self._peer.errors():
                page = await self._stub.ListDeadLetters(request, timeout=LETTERS_TIMEOUT)
            found.extend(page.letters)
            token = page.next_page_token
            if not token or len(found) >= limit:
                return found, bool(token)

    async def get(self, pool: str, letter_id: str) -> dead_letter_pb2.GetDeadLetterResponse:
        with self._peer.errors():
            request = dead_letter_pb2.GetDeadLetterRequest(pool=pool, letter_id=letter_id)
            return await self._stub.GetDeadLetter(request, timeout=LETTERS_TIMEOUT)

    async def redrive(
        self, request: dead_letter_pb2.RedriveRequest
    ) -> AsyncGenerator[dead_letter_pb2.RedriveResponse, None]:
        """One result for each letter. Ending the iteration ends the redriving."""
        with self._peer.errors():
            async for response in self._stub.Redrive(request):
                yield response

    async def purge(self, request: dead_letter_pb2.PurgeRequest) -> AsyncGenerator[dead_letter_pb2.PurgeResponse, None]:
        """One result for each letter. Ending the iteration ends the purging."""
        with self._peer.errors():
            async for response in self._stub.Purge(request):
                yield response


@contextlib.asynccontextmanager
async def control_plane(named: str) -> AsyncIterator[ControlPlane]:
    """The control plane at `host:port`, or that of several, with commas between, which leads. Nothing is connected
    before the first call. Raises InvalidArgument for what is no address."""
    try:
        found = addresses(named)
    except ValueError as error:
        raise InvalidArgument("BAD_ADDRESS", f"--server {error}") from error
    async with contextlib.AsyncExitStack() as channels:
        yield ControlPlane(found, channels)


@contextlib.asynccontextmanager
async def gateway(address: str) -> AsyncIterator[Gateway]:
    """The worker at `host:port`; nothing is connected before the first call."""
    async with _channel(address) as channel:
        yield Gateway(channel, address)


@contextlib.asynccontextmanager
async def promises(address: str) -> AsyncIterator[Promises]:
    """The worker at `host:port`; nothing is connected before the first call."""
    async with _channel(address) as channel:
        yield Promises(channel, address)


@contextlib.asynccontextmanager
async def dead_letters(address: str) -> AsyncIterator[DeadLetters]:
    """The worker at `host:port`; nothing is connected before the first call."""
    async with _channel(address) as channel:
        yield DeadLetters(channel, address)


def _channel(address: str) -> grpc.aio.Channel:
    """In the clear, unless the command was told what to trust or show."""
    told = shown()
    if not any(told):
        return grpc.aio.insecure_channel(address, options=CLIENT)
    # Imported here: settings and tracing come along with it, and make every command slower by half a second.
    from troupe.chassis.rpc_client import ClientTls, channel

    files = [Path(name) if name else None for name in (told.ca, told.cert, told.key)]
    return channel(address, ClientTls(*files) if any(files) else None, told.token)
