"""A client in the process that it calls: the services' own checks and answers, without a connection."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Final, cast

import msgspec

from troupe.chassis.ids import uuid7
from troupe.chassis.wire import duration, timestamp
from troupe.dataplane.blobs.payloads import BYTES
from troupe.dataplane.service_agent import Agents
from troupe.dataplane.service_promise import JSON, PromiseDesk
from troupe.v1 import agent_pb2
from troupe.v1.agent_pb2 import (
    ControlTurnsRequest,
    ControlTurnsResponse,
    ConverseRequest,
    DeleteSessionRequest,
    GetMessageRequest,
    GetSessionRequest,
    GetSessionResponse,
    MessageRef,
    MessageStatus,
    OnBusy,
    SendRequest,
    Verb,
    VerbAnswer,
)
from troupe.v1.envelope_pb2 import Content, Data, SessionRef
from troupe.v1.promise_pb2 import (
    ListPromisesRequest,
    Promise,
    PromiseRef,
    RejectRequest,
    ResolveRequest,
    SettlementAnswer,
)
from troupe.v1.turn_pb2 import Event

MAX_PAGE: Final = 1_000


class LocalClient:
    """Calls the services of this process. All raise the TroupeErrors that a client of the fleet gets.

    `agent` names an agent or actor of the namespace `default`, or is `namespace/name`."""

    def __init__(self, agents: Agents, promises: PromiseDesk) -> None:
        self._agents, self._promises = agents, promises

    async def send(
        self,
        agent: str,
        session: str,
        text: str | bytes,
        *,
        wait: float = 0.0,
        content_type: str = BYTES,
        message_id: str = "",
        after: float | None = None,
        at: float | None = None,
        on_busy: OnBusy.ValueType = agent_pb2.ON_BUSY_UNSPECIFIED,
        attributes: dict[str, str] | None = None,
    ) -> MessageStatus:
        """Send a message, which cannot be lost once this returns; its fate, where it is settled within `wait` seconds,
        or where it stands. `after` so many seconds, or `at` a time, it takes its place in the session. The same
        `message_id` again has no second effect."""
        request = _message(agent, session, text, content_type, message_id)
        request.on_busy = on_busy
        request.attributes.update(attributes or {})
        if wait:
            request.wait.CopyFrom(duration(wait))
        if after is not None:
            request.deliver_after.CopyFrom(duration(after))
        if at is not None:
            request.deliver_at.CopyFrom(timestamp(at))
        return (await self._agents.Send(request, _HERE)).status

    async def converse(
        self, agent: str, session: str, text: str | bytes, *, content_type: str = BYTES, message_id: str = ""
    ) -> AsyncIterator[Event]:
        """Send a message, and what its turn shows, from `accepted` to `completed` or `failed`. Leaving earlier does not
        end the turn."""
        message = _message(agent, session, text, content_type, message_id)
        async with aclosing(cast(Any, self._agents.Converse(ConverseRequest(message=message), _HERE))) as responses:
            async for response in responses:
                yield response.event

    async def message(self, agent: str, session: str, message_id: str, *, wait: float = 0.0) -> MessageStatus:
        """The message's fate, where it is settled within `wait` seconds, or where it stands."""
        request = GetMessageRequest(session=_session(agent, session), message_id=message_id, wait=duration(wait))
        return (await self._agents.GetMessage(request, _HERE)).status

    async def session(self, agent: str, session: str, *, history: int = 0) -> GetSessionResponse:
        """The session with its newest `history` entries."""
        return await self._agents.GetSession(
            GetSessionRequest(session=_session(agent, session), history=history), _HERE
        )

    async def delete(self, agent: str, session: str) -> int:
        """Drop the session; how many messages that cancelled."""
        request = DeleteSessionRequest(session=_session(agent, session))
        return (await self._agents.DeleteSession(request, _HERE)).cancelled

    async def control(
        self, verb: Verb.ValueType, agent: str, session: str, message_id: str, *, verb_id: str = "", lifts: str = ""
    ) -> VerbAnswer.ValueType:
        """Apply a verb to a message: VERB_CANCEL, VERB_KILL, VERB_PAUSE or VERB_RESUME."""
        request = ControlTurnsRequest(
            verb=verb,
            verb_id=verb_id or uuid7(),
            lifts=lifts,
            messages=[MessageRef(session=_session(agent, session), message_id=message_id)],
        )
        async with aclosing(cast(Any, self._agents.ControlTurns(request, _HERE))) as answers:
            return cast(VerbAnswer.ValueType, (await anext(answers)).answer)

    async def restart(
        self, agent: str, session: str, message_id: str, from_step: int, *, verb_id: str = ""
    ) -> ControlTurnsResponse:
        """Settle a message that waits or is a dead letter, and let another go on for it, named in the answer: steps
        before `from_step` are kept, 0 for none."""
        request = ControlTurnsRequest(
            verb=agent_pb2.VERB_RESTART,
            verb_id=verb_id or uuid7(),
            messages=[MessageRef(session=_session(agent, session), message_id=message_id)],
            from_step=from_step,
        )
        async with aclosing(cast(Any, self._agents.ControlTurns(request, _HERE))) as answers:
            return cast(ControlTurnsResponse, await anext(answers))

    async def promises(self, agent: str = "", session: str = "", *, settled: bool = False) -> Sequence[Promise]:
        """Open promises, or all that are kept, of a session, an agent, or everybody's: the first MAX_PAGE."""
        parent = _session(agent, session) if agent else SessionRef()
        request = ListPromisesRequest(parent=parent, settled=settled, page_size=MAX_PAGE)
        return list((await self._promises.ListPromises(request, _HERE)).promises)

    async def resolve(
        self, promise: str | Promise, value: Any, *, settlement_id: str = ""
    ) -> SettlementAnswer.ValueType:
        """Give a promise, named by its token or as it was listed, its value: a Content, or what JSON can say."""
        request = ResolveRequest(settlement_id=settlement_id, value=_value(value), **_which(promise))
        return (await self._promises.Resolve(request, _HERE)).answer

    async def reject(
        self, promise: str | Promise, reason: str = "", *, settlement_id: str = ""
    ) -> SettlementAnswer.ValueType:
        """Settle a promise without a value."""
        request = RejectRequest(settlement_id=settlement_id, reason=reason, **_which(promise))
        return (await self._promises.Reject(request, _HERE)).answer


class _Here:
    """The part of a call's context that the services look at. Nobody hangs up, and there is no deadline but the
    caller's own."""

    def time_remaining(self) -> None:
        return None

    def invocation_metadata(self) -> tuple[()]:
        return ()


_HERE: Final[Any] = _Here()


def _session(agent: str, session: str) -> SessionRef:
    namespace, _, name = agent.rpartition("/")
    return SessionRef(namespace=namespace, agent=name, session=session)


def _message(agent: str, session: str, text: str | bytes, content_type: str, message_id: str) -> SendRequest:
    content = Content(text=text) if isinstance(text, str) else _data(text, content_type)
    return SendRequest(session=_session(agent, session), message_id=message_id, content=content)


def _data(value: bytes, content_type: str) -> Content:
    return Content(data=Data(content_type=content_type, value=value))


def _value(value: Any) -> Content:
    match value:
        case Content():
            return value
        case str():
            return Content(text=value)
        case _:
            return _data(msgspec.json.encode(value), JSON)


def _which(promise: str | Promise) -> dict[str, Any]:
    if isinstance(promise, str):
        return {"token": promise}
    session = promise.session
    ref = SessionRef(namespace=session.namespace, agent=session.agent, session=session.session)
    return {"promise": PromiseRef(session=ref, promise_id=promise.promise_id)}
