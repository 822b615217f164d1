"""PromiseService: who may settle what, and what is a value of it; carried out by the promises."""

import hmac
from typing import Any, Final

import grpc
import msgspec

from troupe.broker.addressing import DEFAULT, NAME, SessionKey, is_session
from troupe.broker.envelope import MAX_ID
from troupe.chassis.access.policy import missing_role
from troupe.chassis.access.roles import Role, caller
from troupe.chassis.errors import InvalidArgument, PermissionDenied
from troupe.chassis.ids import uuid7
from troupe.dataplane import access, promise_tokens
from troupe.dataplane.blobs.payloads import Payloads, check_inline
from troupe.dataplane.json_schema import faults
from troupe.dataplane.promises import Promises, shown
from troupe.dataplane.state import control
from troupe.dataplane.state.control import Settlement
from troupe.v1 import promise_pb2
from troupe.v1 import promise_pb2_grpc as served
from troupe.v1.envelope_pb2 import Content, Data, SessionRef
from troupe.v1.promise_pb2 import (
    DESCRIPTOR,
    GetPromiseRequest,
    GetPromiseResponse,
    ListPromisesRequest,
    ListPromisesResponse,
    Promise,
    PromiseState,
    RejectRequest,
    RejectResponse,
    ResolveRequest,
    ResolveResponse,
    SettlementAnswer,
)

SERVICE = DESCRIPTOR.services_by_name["PromiseService"].full_name
MAX_PAGE: Final = 1000
MAX_PROMISE_ID: Final = 512
MAX_REASON: Final = 1000
"""Bytes of a rejection's reason."""
JSON: Final = "application/json"

Context = grpc.aio.ServicerContext[Any, Any]
Asked = ResolveRequest | RejectRequest | GetPromiseRequest


class PromiseDesk(served.PromiseServiceServicer):
    """The service of one worker. Clients give and get values whole."""

    def __init__(self, promises: Promises, payloads: Payloads, labels: access.Labels) -> None:
        self._promises, self._payloads, self._labels = promises, payloads, labels

    async def Resolve(self, request: ResolveRequest, context: Context) -> ResolveResponse:  # noqa: N802
        if request.value.WhichOneof("body") is None:
            raise InvalidArgument("NO_VALUE", "value: is required; set text or data")
        check_inline(request.value)
        key, promise = await self._to_settle(request)
        value = await self._payloads.detached(key.tenant, _of_schema(promise, request.value))
        state, body = promise_pb2.PROMISE_STATE_RESOLVED, value.SerializeToString()
        answer, promise = await self._settle(key, request, promise, state, body)
        return ResolveResponse(answer=answer, promise=await self._whole(key, promise))

    async def Reject(self, request: RejectRequest, context: Context) -> RejectResponse:  # noqa: N802
        if len(request.reason.encode()) > MAX_REASON:
            raise InvalidArgument("BAD_REASON", f"reason: more than {MAX_REASON} bytes; say it in one sentence")
        key, promise = await self._to_settle(request)
        state, body = promise_pb2.PROMISE_STATE_REJECTED, request.reason.encode()
        answer, promise = await self._settle(key, request, promise, state, body)
        return RejectResponse(answer=answer, promise=await self._whole(key, promise))

    async def GetPromise(self, request: GetPromiseRequest, context: Context) -> GetPromiseResponse:  # noqa: N802
        key, promise = await self._found(request)
        if access.relayed(context):
            self._promises.taken_up(key, promise.id)
            return GetPromiseResponse(promise=shown(key, promise))
        return GetPromiseResponse(promise=await self._whole(key, promise))

    async def ListPromises(self, request: ListPromisesRequest, context: Context) -> ListPromisesResponse:  # noqa: N802
        size = request.page_size or 100
        if not 1 <= size <= MAX_PAGE:
            raise InvalidArgument("BAD_PAGE_SIZE", f"page_size: must lie between 1 and {MAX_PAGE}")
        parent = request.parent
        _check_parent(parent)
        page, token = await self._promises.page(_prefix(parent), size, request.page_token, settled=request.settled)
        # A page may be shorter than asked for where some of it are not the caller's, or of a longer session's name.
        own = [
            one
            for one in page
            if parent.session in ("", one.session.session)
            and access.reaches(one.session.namespace, one.session.agent, self._labels)
        ]
        for one in own:
            await self._inline(one)
        return ListPromisesResponse(promises=own, next_page_token=token)

    async def _found(self, request: Asked) -> tuple[SessionKey, control.Promise]:
        """The promise that the caller names: by its token, or by its name in a session of the caller's."""
        if request.token:
            key, promise_id = promise_tokens.named(request.token)
            if key.tenant != access.tenant():
                raise PermissionDenied("OTHER_TENANT", "token: is of another tenant's promise")
            promise = await self._promises.get(key, promise_id)
            hashed = promise_tokens.hashed(request.token)
            if not any(hmac.compare_digest(hashed, own) for own in promise.tokens):
                raise PermissionDenied("NOT_ITS_TOKEN", f"token: is none of promise {promise_id}, or too old")
            return key, promise
        if not request.promise.promise_id:
            raise InvalidArgument("NO_PROMISE", "promise: name one, or show its token")
        if len(request.promise.promise_id.encode()) > MAX_PROMISE_ID:
            raise InvalidArgument("BAD_PROMISE", f"promise.promise_id: more than {MAX_PROMISE_ID} bytes")
        key = access.session(request.promise.session, self._labels)
        return key, await self._promises.get(key, request.promise.promise_id)

    async def _to_settle(self, request: ResolveRequest | RejectRequest) -> tuple[SessionKey, control.Promise]:
        """The same, where the caller may settle it."""
        if len(request.settlement_id.encode()) > MAX_ID:
            raise InvalidArgument("BAD_SETTLEMENT_ID", f"settlement_id: more than {MAX_ID} bytes")
        key, promise = await self._found(request)
        who, may = caller(), frozenset({Role.OPERATOR})
        if not request.token and who.roles.isdisjoint(may) and who.name not in promise.approvers:
            raise PermissionDenied(
                "ROLE_MISSING",
                f"{who.name} may not settle promise {promise.id}: it is none of its approvers, and lacks the role "
                f"{missing_role(may)}",
                metadata={"missing_role": missing_role(may)},
            )
        return key, promise

    async def _settle(
        self,
        key: SessionKey,
        request: ResolveRequest | RejectRequest,
        promise: control.Promise,
        state: PromiseState.ValueType,
        value: bytes,
    ) -> tuple[SettlementAnswer.ValueType, control.Promise]:
        by = "" if request.token else caller().name
        return await self._promises.settle(
            key, Settlement(promise.id, request.settlement_id or uuid7(), state, value, by)
        )

    async def _whole(self, key: SessionKey, promise: control.Promise) -> Promise:
        return await self._inline(shown(key, promise))

    async def _inline(self, promise: Promise) -> Promise:
        if promise.value.HasField("blob"):
            promise.value.CopyFrom(await self._payloads.inline(promise.session.tenant, promise.value))
        return promise


def _of_schema(promise: control.Promise, value: Content) -> Content:
    """The value as its turn gets it: JSON, where there is a schema for it; a text is then a JSON text. Raises
    InvalidArgument where it is not of the schema."""
    if not promise.json_schema:
        return value
    if value.HasField("text"):
        value = Content(data=Data(content_type=JSON, value=msgspec.json.encode(value.text)))
    if value.data.content_type.partition(";")[0].strip().lower() != JSON:
        raise InvalidArgument("NOT_JSON", f"value: promise {promise.id} takes {JSON}, not {value.data.content_type!r}")
    try:
        parsed = msgspec.json.decode(value.data.value)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidArgument("NOT_JSON", f"value: is no JSON: {error}") from error
    fault = next(faults(msgspec.json.decode(promise.json_schema), parsed), None)
    if fault is not None:
        raise InvalidArgument(
            "NOT_OF_SCHEMA", f"value: {fault}; `troupe promise show` shows the schema of {promise.id}"
        )
    return value


def _check_parent(parent: SessionRef) -> None:
    if parent.tenant:
        raise access.tenant_set("parent.tenant")
    for part in ("namespace", "agent"):
        if (name := getattr(parent, part)) and not NAME.fullmatch(name):
            raise InvalidArgument("BAD_PARENT", f"parent.{part}: must match {NAME.pattern}")
    if parent.session and not (parent.agent and is_session(parent.session)):
        raise InvalidArgument("BAD_PARENT", "parent.session: names a session, of an agent that is named beside it")


def _prefix(parent: SessionRef) -> str:
    prefix = f"{access.tenant()}/"
    if parent.agent or parent.namespace:
        prefix += f"{parent.namespace or DEFAULT}/"
    if parent.agent:
        prefix += f"{parent.agent}/"
    return prefix + parent.session
