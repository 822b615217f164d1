"""PromiseService of a real worker over gRPC: promises that an actor makes, settled from outside."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import asking_actor
from support.asking_actor import TOKENS
from support.credentials import Tokens
from support.fleets import actor
from support.serving_worker import ServingWorker, config, serving_worker

from troupe.chassis import rpc_client
from troupe.chassis.access.roles import Role
from troupe.chassis.errors import InvalidArgument, NotFound, PermissionDenied, TroupeError
from troupe.chassis.rpc_client import translated
from troupe.chassis.settings import SecretStr
from troupe.chassis.wire import duration
from troupe.v1 import agent_pb2 as pb
from troupe.v1 import promise_pb2 as promises
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2_grpc import AgentServiceStub
from troupe.v1.envelope_pb2 import Content, Data, SessionRef
from troupe.v1.promise_pb2 import PromiseRef, RejectRequest, ResolveRequest
from troupe.v1.promise_pb2_grpc import PromiseServiceStub
from troupe.v1.resource_pb2 import ActorSpec

if TYPE_CHECKING:
    from troupe.v1.agent_pb2_grpc import AgentServiceAsyncStub

ASKER = actor("asker", ActorSpec(entry_point="support.asking_actor:Asker"))
NAME = "m/answer"


class Desk:
    """A worker with the asking actor, and clients of it."""

    def __init__(self, worker: ServingWorker, tokens: Tokens, opened: AsyncExitStack) -> None:
        self.worker, self._tokens, self._opened = worker, tokens, opened

    async def as_(self, name: str, *roles: str, **more: Any) -> tuple[Any, Any]:
        """Stubs of both services for somebody with these roles, `client` where none are given."""
        token = self._tokens.add(name, *roles or ("client",), **more)
        opened = await self._opened.enter_async_context(rpc_client.channel(self.worker.address, token=token))
        return AgentServiceStub(opened), PromiseServiceStub(opened)


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(asking_actor, "OPEN", asyncio.Event())
    TOKENS.clear()
    tokens = Tokens(tmp_path / "tokens.toml")
    token = SecretStr(tokens.add("worker-0", Role.WORKER, Role.CONTROLPLANE))
    async with (
        serving_worker(tmp_path, tokens=tokens.path, token=token) as worker,
        AsyncExitStack() as opened,
    ):
        await worker.apply(config(1, ASKER))
        await worker.place()
        yield Desk(worker, tokens, opened)


def ref(session: str = "s") -> SessionRef:
    return SessionRef(agent="asker", session=session)


def named(session: str = "s", promise_id: str = NAME) -> PromiseRef:
    return PromiseRef(session=ref(session), promise_id=promise_id)


async def asks(agents: Any, text: str = "ask", session: str = "s", message_id: str = "m") -> None:
    """Send the message, and wait until its turn waits."""
    await agents.Send(pb.SendRequest(session=ref(session), message_id=message_id, content=Content(text=text)))
    await stands(agents, turn_pb2.FATE_WAITING, session, message_id)


async def stands(
    agents: "AgentServiceAsyncStub", fate: int, session: str = "s", message_id: str = "m"
) -> pb.MessageStatus:
    async def status() -> pb.MessageStatus:
        asked = pb.GetMessageRequest(session=ref(session), message_id=message_id)
        return (await agents.GetMessage(asked)).status

    async with asyncio.timeout(10):
        while (  # noqa: ASYNC110 - it is in the code under test
            (found := await status()).fate != fate or (fate == turn_pb2.FATE_WAITING and not found.awaits)
        ):
            await asyncio.sleep(0.01)
    return found


async def fate(
    agents: "AgentServiceAsyncStub", session: str = "s", message_id: str = "m", wait: float = 10
) -> pb.MessageStatus:
    asked = pb.GetMessageRequest(session=ref(session), message_id=message_id, wait=duration(wait))
    return (await agents.GetMessage(asked)).status


def json_value(text: str) -> Content:
    return Content(data=Data(content_type="application/json", value=text.encode()))


async def refusal(call: Any, kind: type[TroupeError] = TroupeError) -> TroupeError:
    with pytest.raises(kind) as refused, translated():
        await call
    assert refused.value.metadata["source"] == "gateway"
    return refused.value


async def test_who_holds_the_token_settles_it_and_its_turn_goes_on(desk: Desk) -> None:
    agents, _ = await desk.as_("caller")
    _, hook = await desk.as_("webhook")
    await asks(agents)
    status = await stands(agents, turn_pb2.FATE_WAITING)
    assert (list(status.awaits), status.attempts, status.failures) == (["m/answer"], 1, 0)
    waits = asyncio.create_task(fate(agents))
    settled = await hook.Resolve(ResolveRequest(token=TOKENS[-1], value=Content(text="yes")))
    assert (settled.answer, settled.promise.state) == (
        promises.SETTLEMENT_ANSWER_APPLIED,
        promises.PROMISE_STATE_RESOLVED,
    )
    assert (settled.promise.value.text, settled.promise.settled_by) == ("yes", "")
    done = await waits
    assert (done.fate, done.result.text, done.attempts, done.failures) == (turn_pb2.FATE_DONE, "yes", 2, 0)


async def test_by_name_operators_and_its_approvers_settle_it_and_nobody_else(desk: Desk) -> None:
    agents, client = await desk.as_("caller")
    _, ann = await desk.as_("ann")
    _, operator = await desk.as_("oscar", "operator")
    await asks(agents)
    denied = await refusal(client.Resolve(ResolveRequest(promise=named(), value=Content(text="x"))), PermissionDenied)
    assert (denied.reason, denied.metadata["missing_role"]) == ("ROLE_MISSING", "operator")
    await refusal(client.Reject(RejectRequest(promise=named())), PermissionDenied)
    by_ann = await ann.Resolve(ResolveRequest(promise=named(), value=Content(text="by ann")))
    assert (by_ann.answer, by_ann.promise.settled_by) == (promises.SETTLEMENT_ANSWER_APPLIED, "ann")
    await asks(agents, session="t")
    by_oscar = await operator.Reject(RejectRequest(promise=named("t"), reason="too dear"))
    assert (by_oscar.promise.rejection, by_oscar.promise.settled_by) == ("too dear", "oscar")
    assert (await fate(agents)).result.text == "by ann"
    assert (await fate(agents, "t")).error.message == "too dear"


async def test_the_first_settlement_wins_and_its_repeat_gets_its_answer(desk: Desk) -> None:
    agents, operator = await desk.as_("oscar", "operator", "client")
    await asks(agents)
    first = ResolveRequest(promise=named(), settlement_id="one", value=Content(text="first"))
    second = ResolveRequest(promise=named(), settlement_id="two", value=Content(text="second"))
    assert (await operator.Resolve(first)).answer == promises.SETTLEMENT_ANSWER_APPLIED
    late = await operator.Resolve(second)
    assert (late.answer, late.promise.value.text) == (promises.SETTLEMENT_ANSWER_DUPLICATE, "first")
    rejected = await operator.Reject(RejectRequest(promise=named(), settlement_id="three"))
    assert rejected.answer == promises.SETTLEMENT_ANSWER_DUPLICATE
    assert (await operator.Resolve(first)).answer == promises.SETTLEMENT_ANSWER_APPLIED
    assert (await fate(agents)).result.text == "first"
    assert (await operator.Resolve(second)).answer == promises.SETTLEMENT_ANSWER_DUPLICATE


async def test_nobody_settles_what_expired_or_was_withdrawn(desk: Desk) -> None:
    agents, operator = await desk.as_("oscar", "operator", "client")
    await asks(agents, "ask 0.3")
    assert (await fate(agents)).error.reason == "PROMISE_EXPIRED"
    late = await operator.Resolve(ResolveRequest(promise=named(), value=Content(text="late")))
    assert (late.answer, late.promise.state) == (promises.SETTLEMENT_ANSWER_EXPIRED, promises.PROMISE_STATE_EXPIRED)
    await asks(agents, session="t")
    cancel = pb.ControlTurnsRequest(verb=pb.VERB_CANCEL, messages=[pb.MessageRef(session=ref("t"), message_id="m")])
    assert [one.answer async for one in agents.ControlTurns(cancel)] == [pb.VERB_ANSWER_APPLIED]
    assert (await fate(agents, "t")).fate == turn_pb2.FATE_CANCELLED
    gone = await operator.Resolve(ResolveRequest(promise=named("t"), value=Content(text="late")))
    assert gone.answer == promises.SETTLEMENT_ANSWER_WITHDRAWN


async def test_a_value_has_to_be_of_the_schema(desk: Desk) -> None:
    agents, operator = await desk.as_("oscar", "operator", "client")
    await asks(agents, "typed")
    for value, reason in (
        (json_value('{"note": "x"}'), "NOT_OF_SCHEMA"),
        (json_value('{"ok": "yes"}'), "NOT_OF_SCHEMA"),
        (json_value("{ok: true}"), "NOT_JSON"),
        (json_value('{"ok": NaN}'), "NOT_JSON"),
        (Content(text='{"ok": true}'), "NOT_OF_SCHEMA"),
        (Content(data=Data(content_type="image/png", value=b"x")), "NOT_JSON"),
    ):
        error = await refusal(operator.Resolve(ResolveRequest(promise=named(), value=value)), InvalidArgument)
        assert error.reason == reason, value
        assert "\n" not in str(error)
    await operator.Resolve(ResolveRequest(promise=named(), value=json_value('{"ok": true, "note": "fine"}')))
    assert (await fate(agents)).result.text == "Answer(ok=True, note='fine')"


async def test_what_is_of_the_schema_is_a_value_of_the_type(desk: Desk) -> None:
    """Or a turn would die of what it was given, once for all."""
    agents, operator = await desk.as_("oscar", "operator", "client")
    await asks(agents, "number")
    await operator.Resolve(ResolveRequest(promise=named(), value=json_value("1.0")))
    assert (await fate(agents)).result.text == "1"
    await asks(agents, "day", "t")
    wrong = operator.Resolve(ResolveRequest(promise=named("t"), value=json_value('"27.11.2026"')))
    assert (await refusal(wrong, InvalidArgument)).reason == "NOT_OF_SCHEMA"
    await operator.Resolve(ResolveRequest(promise=named("t"), value=json_value('"2026-11-27"')))
    assert (await fate(agents, "t")).result.text == "datetime.date(2026, 11, 27)"


async def test_a_large_value_travels_by_reference_and_is_shown_whole(desk: Desk) -> None:
    agents, operator = await desk.as_("oscar", "operator", "client")
    await asks(agents)
    large = "x" * 1_000_000
    settled = await operator.Resolve(ResolveRequest(promise=named(), value=Content(text=large)))
    shown = await operator.GetPromise(promises.GetPromiseRequest(promise=named()))
    assert settled.promise.value.text == shown.promise.value.text == large
    assert (await fate(agents)).result.text == large
    await asks(agents, "typed", "t")
    typed = json_value(f'{{"ok": true, "note": "{large}"}}')
    await operator.Resolve(ResolveRequest(promise=named("t"), value=typed))
    assert (await fate(agents, "t")).result.text == f"Answer(ok=True, note='{large}')"


async def test_a_promise_is_shown_and_listed_without_its_token(desk: Desk) -> None:
    agents, client = await desk.as_("caller")
    for session in ("s", "s1", "t"):
        await asks(agents, "typed" if session == "t" else "ask", session)
    shown = (await client.GetPromise(promises.GetPromiseRequest(promise=named()))).promise
    assert (shown.name, shown.message_id, shown.state) == ("answer", "m", promises.PROMISE_STATE_OPEN)
    assert (list(shown.approvers), shown.json_schema) == (["ann"], "")
    by_token = (await client.GetPromise(promises.GetPromiseRequest(token=TOKENS[0]))).promise
    assert by_token == shown
    for token in TOKENS:
        assert token.rpartition(".")[2] not in str(shown)

    async def listed(**more: Any) -> list[str]:
        found, page_token = [], ""
        while True:
            asked = promises.ListPromisesRequest(page_size=1, page_token=page_token, **more)
            page = await client.ListPromises(asked)
            found += [one.session.session for one in page.promises]
            if not (page_token := page.next_page_token):
                return sorted(found)

    assert await listed() == await listed(parent=SessionRef(agent="asker")) == ["s", "s1", "t"]
    assert await listed(parent=ref("s")) == ["s"]
    assert await listed(parent=SessionRef(agent="other")) == []
    await client.Resolve(ResolveRequest(token=TOKENS[0], value=Content(text="x")))
    assert await listed() == ["s1", "t"]
    assert await listed(settled=True) == ["s", "s1", "t"]
    session = await agents.GetSession(pb.GetSessionRequest(session=ref("s1")))
    assert [one.promise_id for one in session.session.promises] == [NAME]
    assert session.session.state == pb.SESSION_STATE_WAITING


async def test_a_token_is_its_promises_alone(desk: Desk) -> None:
    agents, client = await desk.as_("caller")
    _, rival = await desk.as_("rival", tenant='"rival"')
    await asks(agents)
    await asks(agents, session="t")
    first, second = TOKENS
    forged = f"{first.partition('.')[0]}.{second.partition('.')[2]}"
    value = Content(text="x")
    for token in (forged, f"{first.partition('.')[0]}.{'0' * 32}"):
        error = await refusal(client.Resolve(ResolveRequest(token=token, value=value)), PermissionDenied)
        assert error.reason == "NOT_ITS_TOKEN"
        await refusal(client.GetPromise(promises.GetPromiseRequest(token=token)), PermissionDenied)
    error = await refusal(rival.Resolve(ResolveRequest(token=first, value=value)), PermissionDenied)
    assert error.reason == "OTHER_TENANT"
    await refusal(client.Resolve(ResolveRequest(token="tp_x", value=value)), InvalidArgument)
    assert (await stands(agents, turn_pb2.FATE_WAITING)).awaits


async def test_who_is_of_another_tenant_or_reaches_not_the_agent_sees_no_promise(desk: Desk) -> None:
    agents, _ = await desk.as_("caller")
    await asks(agents)
    _, rival = await desk.as_("rival", "client", "operator", tenant='"rival"')
    _, shop = await desk.as_("shop", "client", "operator", agents='{ team = "shop" }')
    await refusal(rival.GetPromise(promises.GetPromiseRequest(promise=named())), NotFound)
    await refusal(rival.Resolve(ResolveRequest(promise=named(), value=Content(text="x"))), NotFound)
    assert not (await rival.ListPromises(promises.ListPromisesRequest(settled=True))).promises
    for call in (
        shop.GetPromise(promises.GetPromiseRequest(promise=named())),
        shop.Resolve(ResolveRequest(promise=named(), value=Content(text="x"))),
        shop.Reject(RejectRequest(promise=named())),
    ):
        assert (await refusal(call, PermissionDenied)).reason == "OTHER_AGENT"
    assert not (await shop.ListPromises(promises.ListPromisesRequest())).promises
    foreign = PromiseRef(session=SessionRef(tenant="default", agent="asker", session="s"), promise_id=NAME)
    error = await refusal(rival.GetPromise(promises.GetPromiseRequest(promise=foreign)), PermissionDenied)
    assert error.reason == "TENANT_SET"


BAD: list[tuple[str, Any, str]] = [
    ("Resolve", ResolveRequest(promise=named()), "NO_VALUE"),
    ("Resolve", ResolveRequest(value=Content(text="x")), "NO_PROMISE"),
    ("Resolve", ResolveRequest(promise=named(promise_id="x" * 513), value=Content(text="x")), "BAD_PROMISE"),
    ("Resolve", ResolveRequest(promise=PromiseRef(promise_id=NAME), value=Content(text="x")), "BAD_SESSION"),
    ("Resolve", ResolveRequest(promise=named(), settlement_id="x" * 129, value=Content(text="x")), "BAD_SETTLEMENT_ID"),
    ("Resolve", ResolveRequest(token="tp_", value=Content(text="x")), "BAD_TOKEN"),
    ("Reject", RejectRequest(promise=named(), reason="x" * 1001), "BAD_REASON"),
    ("Reject", RejectRequest(), "NO_PROMISE"),
    ("GetPromise", promises.GetPromiseRequest(), "NO_PROMISE"),
    ("ListPromises", promises.ListPromisesRequest(page_size=1001), "BAD_PAGE_SIZE"),
    ("ListPromises", promises.ListPromisesRequest(page_token="nonsense"), "BAD_PAGE_TOKEN"),
    ("ListPromises", promises.ListPromisesRequest(page_token=f"{'9' * 5000}:1:xy"), "BAD_PAGE_TOKEN"),
    ("ListPromises", promises.ListPromisesRequest(page_token="1:5:ab"), "BAD_PAGE_TOKEN"),
    ("ListPromises", promises.ListPromisesRequest(parent=SessionRef(session="s")), "BAD_PARENT"),
    ("ListPromises", promises.ListPromisesRequest(parent=SessionRef(agent="a/b")), "BAD_PARENT"),
]


async def test_every_bad_argument_is_named(desk: Desk) -> None:
    _, operator = await desk.as_("oscar", "operator")
    for method, request, reason in BAD:
        error = await refusal(getattr(operator, method)(request), InvalidArgument)
        assert error.reason == reason, (method, request)
    blob = Content()
    blob.blob.sha256 = b"x" * 32
    error = await refusal(operator.Resolve(ResolveRequest(promise=named(), value=blob)), InvalidArgument)
    assert error.reason == "BLOB_NAMED"
    await refusal(operator.GetPromise(promises.GetPromiseRequest(promise=named())), NotFound)
