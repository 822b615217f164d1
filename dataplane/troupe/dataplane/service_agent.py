"""AgentService: clients' calls, checked and bounded here, carried out by the gateway and the sessions."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from math import inf
from typing import Any

import grpc

from troupe.broker.addressing import DEFAULT, SessionKey
from troupe.broker.envelope import MAX_ID
from troupe.broker.order import Number
from troupe.chassis import fault_points
from troupe.chassis.errors import InvalidArgument, PermissionDenied, TroupeError, Unimplemented
from troupe.chassis.ids import uuid7
from troupe.chassis.wire import seconds
from troupe.dataplane import access
from troupe.dataplane.actors.hub import LAST
from troupe.dataplane.blobs.payloads import Payloads, check_inline
from troupe.dataplane.control import Order
from troupe.dataplane.gateway import CONFIRM, MAX_WAIT, Gateway
from troupe.dataplane.selection import Selection
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
    MessageStatus,
    SendRequest,
    SendResponse,
    SubscribeRequest,
    SubscribeResponse,
    Verb,
)
from troupe.v1.envelope_pb2 import SessionRef
from troupe.v1.turn_pb2 import FATE_UNSEEN, Event

SERVICE = DESCRIPTOR.services_by_name["AgentService"].full_name
MAX_MESSAGES = 1000
MAX_SELECTED, SELECTED = 10_000, 1_000
"""Messages that one call may select: at most, and unless it says."""
MAX_DIGEST = 16
MARGIN = 0.5
"""Seconds before a caller's deadline at which it is told that there is no confirm; less where it is near."""

Context = grpc.aio.ServicerContext[Any, Any]


class Agents(served.AgentServiceServicer):
    """The service of one worker. Clients give and get contents whole; workers, among themselves, as they travel."""

    def __init__(
        self,
        gateway: Gateway,
        sessions: Sessions,
        payloads: Payloads,
        stopping: Callable[[], bool],
        labels: access.Labels,
    ) -> None:
        self._gateway, self._sessions, self._payloads = gateway, sessions, payloads
        self._stopping, self._labels = stopping, labels

    async def Send(self, request: SendRequest, context: Context) -> SendResponse:  # noqa: N802
        key = self._key(request.session)
        wait = seconds(request.wait)
        within = _within(context)
        await self._take(key, request)
        if wait:
            status = await self._gateway.send_and_wait(key, request, wait, within)
            return SendResponse(message_id=status.message_id, status=await self._whole(key, status))
        message_id, _ = await self._gateway.send(key, request, within)
        response = SendResponse(message_id=message_id)
        response.status.session.CopyFrom(key.ref())
        response.status.message_id, response.status.fate = message_id, FATE_UNSEEN
        return response

    async def Converse(  # noqa: N802
        self, request: ConverseRequest, context: Context
    ) -> AsyncIterator[ConverseResponse]:
        key, message = self._key(request.message.session), request.message
        message.message_id = message.message_id or uuid7()
        after = request.after if request.HasField("after") else None
        await self._take(key, message)
        ended = False
        try:
            async with aclosing(self._gateway.converse(key, message, after, _within(context))) as events:
                async for event in events:
                    ended = event.WhichOneof("kind") in LAST
                    yield ConverseResponse(event=await self._shown(key, event))
        except TroupeError:
            ended = True  # refused: this call has nothing to cancel
            raise
        finally:
            if request.cancel_on_disconnect and not ended and not self._stopping():
                await self._gateway.cancel(key, message.message_id, uuid7())

    async def Subscribe(  # noqa: N802
        self, request: SubscribeRequest, context: Context
    ) -> AsyncIterator[SubscribeResponse]:
        key, relayed = self._key(request.session), access.relayed(context)
        # Said at once: who relays wants to know that somebody is there, before there is anything to show.
        await context.send_initial_metadata(())
        if request.message_id:
            _check_id("message_id", request.message_id)
            after = request.after if request.HasField("after") else None
            sent = _number(request)
            followed = self._gateway.follow(
                key, request.message_id, after, relayed=relayed, number=sent, payload=request.digest
            )
        else:
            await self._gateway.ready()
            followed = self._gateway.following.session(key, relayed=relayed)
        async with aclosing(followed) as events:
            async for event in events:
                yield SubscribeResponse(event=event if relayed else await self._shown(key, event))

    async def GetMessage(self, request: GetMessageRequest, context: Context) -> GetMessageResponse:  # noqa: N802
        key = self._key(request.session)
        wait = seconds(request.wait)
        _check_id("message_id", request.message_id)
        if not 0 <= wait <= MAX_WAIT:
            raise InvalidArgument("BAD_WAIT", "wait: must lie between 0 and 1 h")
        relayed = access.relayed(context)
        status = await self._gateway.status(key, request.message_id, wait, relayed=relayed)
        return GetMessageResponse(status=status if relayed else await self._whole(key, status))

    async def ControlTurns(  # noqa: N802
        self, request: ControlTurnsRequest, context: Context
    ) -> AsyncIterator[ControlTurnsResponse]:
        _check_control(request)
        relayed = access.relayed(context)
        verb_id = request.verb_id or uuid7()
        order = Order(request.verb, verb_id, request.lifts, request.from_step, request.dry_run)
        if request.HasField("selector"):
            if request.shards and not relayed:
                raise PermissionDenied("SHARDS_NAMED", "shards: only workers name shards; leave them out")
            if request.selector.session.tenant and not relayed:
                raise access.tenant_set("selector.session.tenant")
            tenant = request.selector.session.tenant or access.tenant()
            selection = Selection.of(request.selector, tenant)
            limit = request.limit or SELECTED
            if request.shards:  # who asks stops reading when it has enough
                answers = self._gateway.control.selected(order, selection, inf, shards=request.shards)
            else:
                answers = self._gateway.control.selected(order, selection, limit, self._reaches)
        else:
            named = [(self._key(message.session), message) for message in request.messages]
            answers = self._gateway.control.named(order, named, relayed=relayed)
        await self._gateway.ready()
        async with aclosing(answers) as shown:
            async for answer in shown:
                yield answer

    async def GetSession(self, request: GetSessionRequest, context: Context) -> GetSessionResponse:  # noqa: N802
        if request.history > MAX_MESSAGES:
            raise InvalidArgument("BAD_HISTORY", f"history: at most {MAX_MESSAGES} entries")
        key = self._key(request.session)
        session, history = await self._sessions.get(key, request.history, relayed=access.relayed(context))
        return GetSessionResponse(session=session, history=history)

    async def ListSessions(self, request: ListSessionsRequest, context: Context) -> ListSessionsResponse:  # noqa: N802
        if request.parent.session:
            raise InvalidArgument("BAD_PARENT", "parent: names an agent, not a session")
        if request.parent.tenant:
            raise access.tenant_set("parent.tenant")
        size = request.page_size or 100
        if not 1 <= size <= MAX_MESSAGES:
            raise InvalidArgument("BAD_PAGE_SIZE", f"page_size: must lie between 1 and {MAX_MESSAGES}")
        prefix = f"{access.tenant()}/"
        if request.parent.agent or request.parent.namespace:
            prefix += f"{request.parent.namespace or DEFAULT}/"
        if request.parent.agent:
            prefix += f"{request.parent.agent}/"
        sessions, token = await self._sessions.list(prefix, size, request.page_token)
        # A page may be shorter than asked for where some of it are not the caller's.
        own = [one for one in sessions if access.reaches(one.session.namespace, one.session.agent, self._labels)]
        return ListSessionsResponse(sessions=own, next_page_token=token)

    async def DeleteSession(self, request: DeleteSessionRequest, context: Context) -> DeleteSessionResponse:  # noqa: N802
        cancelled = await self._sessions.delete(self._key(request.session), relayed=access.relayed(context))
        return DeleteSessionResponse(cancelled=cancelled)

    def _key(self, ref: SessionRef) -> SessionKey:
        return access.session(ref, self._labels)

    def _reaches(self, key: SessionKey) -> bool:
        return access.reaches(key.namespace, key.agent, self._labels)

    async def _take(self, key: SessionKey, request: SendRequest) -> None:
        """Let the request's content be as it travels."""
        fault_points.reach("call.taken")
        if request.HasField("content"):
            check_inline(request.content)
            travelling = await self._payloads.detached(key.tenant, request.content)
            if travelling is not request.content:
                request.content.CopyFrom(travelling)

    async def _whole(self, key: SessionKey, status: MessageStatus) -> MessageStatus:
        """The status with its result whole."""
        if status.result.HasField("blob"):
            whole = MessageStatus()
            whole.CopyFrom(status)
            whole.result.CopyFrom(await self._payloads.inline(key.tenant, status.result))
            return whole
        return status

    async def _shown(self, key: SessionKey, event: Event) -> Event:
        """The event with its result whole. Events are shared by all who follow a message, and stay as they are."""
        if event.completed.result.HasField("blob"):
            whole = Event()
            whole.CopyFrom(event)
            whole.completed.result.CopyFrom(await self._payloads.inline(key.tenant, event.completed.result))
            return whole
        return event


def _number(request: SubscribeRequest) -> Number | None:
    if not request.HasField("number"):
        return None
    _check_id("number.stream", request.number.stream)
    if len(request.digest) > MAX_DIGEST:
        raise InvalidArgument("BAD_DIGEST", f"digest: more than {MAX_DIGEST} bytes")
    return Number(request.number.stream, request.number.sequence)


def _within(context: Context) -> float:
    """Seconds for the confirm: what the caller waits for, less what an answer needs to come to it."""
    left: Any = context.time_remaining()
    return CONFIRM if left is None else float(left) - min(MARGIN, left / 10)


def _check_control(request: ControlTurnsRequest) -> None:
    if request.verb == agent_pb2.VERB_UNSPECIFIED:
        raise InvalidArgument("NO_VERB", "verb: say what to do")
    if request.verb not in Verb.values():
        raise Unimplemented("NOT_BUILT", f"verb: {request.verb} is none that this worker knows")
    if request.verb_id:
        _check_id("verb_id", request.verb_id)
    if request.lifts:
        _check_id("lifts", request.lifts)
        if request.verb != agent_pb2.VERB_RESUME:
            raise InvalidArgument("BAD_LIFTS", "lifts: only a RESUME lifts a PAUSE")
    if (request.verb == agent_pb2.VERB_RESTART) != request.HasField("from_step"):
        raise InvalidArgument(
            "BAD_STEP", "from_step: a RESTART says which step is the first to be taken again, 0 for all"
        )
    if request.HasField("selector"):
        if request.messages:
            raise InvalidArgument("BAD_MESSAGES", "messages: are named by the selector already; leave one of them out")
        if request.limit > MAX_SELECTED:
            raise InvalidArgument("BAD_LIMIT", f"limit: must lie between 1 and {MAX_SELECTED}")
        return
    if request.limit or request.shards:
        raise InvalidArgument("NO_SELECTOR", "limit, shards: go with a selector")
    if not 1 <= len(request.messages) <= MAX_MESSAGES:
        raise InvalidArgument("BAD_MESSAGES", f"messages: name 1 to {MAX_MESSAGES}, or a selector")
    for message in request.messages:
        _check_id("messages: message_id", message.message_id)


def _check_id(field: str, value: str) -> None:
    if not value:
        raise InvalidArgument("NO_MESSAGE_ID", f"{field}: is required")
    if len(value.encode()) > MAX_ID:
        raise InvalidArgument("BAD_MESSAGE_ID", f"{field}: more than {MAX_ID} bytes")
