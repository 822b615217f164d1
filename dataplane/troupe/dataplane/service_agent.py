"""AgentService: clients' calls, checked and bounded here, carried out by the gateway and the sessions."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import grpc

from troupe.broker.addressing import DEFAULT, SessionKey
from troupe.broker.envelope import MAX_ID
from troupe.chassis.errors import InvalidArgument, PermissionDenied, TroupeError, Unimplemented
from troupe.chassis.ids import uuid7
from troupe.chassis.wire import seconds
from troupe.dataplane.actors.hub import Hub
from troupe.dataplane.gateway import MAX_WAIT, Gateway
from troupe.dataplane.sessions import Sessions
from troupe.v1 import agent_pb2
from troupe.v1 import agent_pb2_grpc as served
from troupe.v1.agent_pb2 import (
    DESCRIPTOR,
    ControlTurnsRequest,
    ControlTurnsResponse,
    ConverseRequest,
    ConverseResponse,
    DeleteSessionRequest,
    DeleteSessionResponse,
    GetMessageRequest,
    GetMessageResponse,
    GetSessionRequest,
    GetSessionResponse,
    ListSessionsRequest,
    ListSessionsResponse,
    SendRequest,
    SendResponse,
    SubscribeRequest,
    SubscribeResponse,
    Verb,
)
from troupe.v1.envelope_pb2 import SessionRef
from troupe.v1.turn_pb2 import FATE_UNSEEN

SERVICE = DESCRIPTOR.services_by_name["AgentService"].full_name
MAX_MESSAGES = 1000
_LAST = ("completed", "failed")

Context = grpc.aio.ServicerContext[Any, Any]


class Agents(served.AgentServiceServicer):
    """The service of one worker."""

    def __init__(self, gateway: Gateway, sessions: Sessions, hub: Hub, stopping: Callable[[], bool]) -> None:
        self._gateway, self._sessions, self._hub, self._stopping = gateway, sessions, hub, stopping

    async def Send(self, request: SendRequest, context: Context) -> SendResponse:  # noqa: N802
        key = _key(request.session)
        wait = seconds(request.wait)
        if wait:
            status = await self._gateway.send_and_wait(key, request, wait)
            return SendResponse(message_id=status.message_id, status=status)
        message_id, _ = await self._gateway.send(key, request)
        response = SendResponse(message_id=message_id)
        response.status.session.CopyFrom(key.ref())
        response.status.message_id, response.status.fate = message_id, FATE_UNSEEN
        return response

    async def Converse(  # noqa: N802
        self, request: ConverseRequest, context: Context
    ) -> AsyncIterator[ConverseResponse]:
        key, message = _key(request.message.session), request.message
        message.message_id = message.message_id or uuid7()
        after = request.after if request.HasField("after") else None
        ended = False
        try:
            async with aclosing(self._gateway.converse(key, message, after)) as events:
                async for event in events:
                    ended = event.WhichOneof("kind") in _LAST
                    yield ConverseResponse(event=event)
        except TroupeError:
            ended = True  # refused: this call has nothing to cancel
            raise
        finally:
            if request.cancel_on_disconnect and not ended and not self._stopping():
                await self._gateway.cancel(key, message.message_id, uuid7())

    async def Subscribe(  # noqa: N802
        self, request: SubscribeRequest, context: Context
    ) -> AsyncIterator[SubscribeResponse]:
        key = _key(request.session)
        if not request.message_id:
            with self._hub.feed(key) as feed:
                async for event in feed.follow():
                    yield SubscribeResponse(event=event)
            return
        after = request.after if request.HasField("after") else None
        async with aclosing(self._gateway.follow(key, request.message_id, after)) as events:
            async for event in events:
                yield SubscribeResponse(event=event)

    async def GetMessage(self, request: GetMessageRequest, context: Context) -> GetMessageResponse:  # noqa: N802
        key = _key(request.session)
        wait = seconds(request.wait)
        _check_id("message_id", request.message_id)
        if not 0 <= wait <= MAX_WAIT:
            raise InvalidArgument("BAD_WAIT", "wait: must lie between 0 and 1 h")
        return GetMessageResponse(status=await self._gateway.status(key, request.message_id, wait))

    async def ControlTurns(  # noqa: N802
        self, request: ControlTurnsRequest, context: Context
    ) -> AsyncIterator[ControlTurnsResponse]:
        if request.verb == agent_pb2.VERB_UNSPECIFIED:
            raise InvalidArgument("NO_VERB", "verb: say what to do")
        if request.verb != agent_pb2.VERB_CANCEL:
            name = Verb.Name(request.verb) if request.verb in Verb.values() else str(request.verb)
            raise Unimplemented("NOT_BUILT", f"verb: {name.removeprefix('VERB_')} is not built yet; CANCEL is")
        if not 1 <= len(request.messages) <= MAX_MESSAGES:
            raise InvalidArgument("BAD_MESSAGES", f"messages: name 1 to {MAX_MESSAGES}")
        keys = [_key(message.session) for message in request.messages]
        for message in request.messages:
            _check_id("messages: message_id", message.message_id)
        verb_id = request.verb_id or uuid7()
        _check_id("verb_id", verb_id)
        for key, message in zip(keys, request.messages, strict=True):
            if request.dry_run:
                answer = await self._gateway.would_cancel(key, message.message_id)
            else:
                answer = await self._gateway.cancel(key, message.message_id, verb_id)
            yield ControlTurnsResponse(message=message, answer=answer)

    async def GetSession(self, request: GetSessionRequest, context: Context) -> GetSessionResponse:  # noqa: N802
        if request.history > MAX_MESSAGES:
            raise InvalidArgument("BAD_HISTORY", f"history: at most {MAX_MESSAGES} entries")
        session, history = await self._sessions.get(_key(request.session), request.history)
        return GetSessionResponse(session=session, history=history)

    async def ListSessions(self, request: ListSessionsRequest, context: Context) -> ListSessionsResponse:  # noqa: N802
        if request.parent.session:
            raise InvalidArgument("BAD_PARENT", "parent: names an agent, not a session")
        if request.parent.tenant:
            raise _no_tenant()
        size = request.page_size or 100
        if not 1 <= size <= MAX_MESSAGES:
            raise InvalidArgument("BAD_PAGE_SIZE", f"page_size: must lie between 1 and {MAX_MESSAGES}")
        prefix = f"{DEFAULT}/"
        if request.parent.agent or request.parent.namespace:
            prefix += f"{request.parent.namespace or DEFAULT}/"
        if request.parent.agent:
            prefix += f"{request.parent.agent}/"
        sessions, token = await self._sessions.list(prefix, size, request.page_token)
        return ListSessionsResponse(sessions=sessions, next_page_token=token)

    async def DeleteSession(self, request: DeleteSessionRequest, context: Context) -> DeleteSessionResponse:  # noqa: N802
        return DeleteSessionResponse(cancelled=await self._sessions.delete(_key(request.session)))


def _key(ref: SessionRef) -> SessionKey:
    """The caller's session. All callers are of one tenant until they have credentials."""
    if ref.tenant:
        raise _no_tenant()
    return SessionKey.of(ref)


def _check_id(field: str, value: str) -> None:
    if not value:
        raise InvalidArgument("NO_MESSAGE_ID", f"{field}: is required")
    if len(value.encode()) > MAX_ID:
        raise InvalidArgument("BAD_MESSAGE_ID", f"{field}: more than {MAX_ID} bytes")


def _no_tenant() -> PermissionDenied:
    return PermissionDenied(
        "TENANT_SET", "session.tenant: only workers name a tenant (role worker missing); leave it out"
    )
