"""What a credential reaches on a worker: its tenant's sessions, and the agents that its labels name."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.credentials import Tokens
from support.fleets import actor
from support.serving_worker import COUNTER, ServingWorker, config, serving_worker

from troupe.chassis import rpc_client
from troupe.chassis.access.roles import Role
from troupe.chassis.errors import NotFound, PermissionDenied
from troupe.chassis.rpc_client import translated
from troupe.chassis.settings import SecretStr
from troupe.chassis.wire import duration
from troupe.dataplane.peers import RELAYED
from troupe.v1 import agent_pb2 as pb
from troupe.v1 import dead_letter_pb2 as letters
from troupe.v1.agent_pb2_grpc import AgentServiceStub
from troupe.v1.dead_letter_pb2_grpc import DeadLetterServiceStub
from troupe.v1.envelope_pb2 import Content, SessionRef
from troupe.v1.resource_pb2 import ActorSpec

if TYPE_CHECKING:
    from troupe.v1.agent_pb2_grpc import AgentServiceAsyncStub

PLAIN = actor("plain", ActorSpec(entry_point="support.scripted_actor:Counter"))


class Desk:
    """A worker with two agents, one with a label, and clients of it."""

    def __init__(self, worker: ServingWorker, tokens: Tokens, opened: AsyncExitStack) -> None:
        self.worker, self.tokens, self._opened = worker, tokens, opened

    async def client(self, name: str, *roles: str, **more: Any) -> "AgentServiceAsyncStub":
        stub: AgentServiceAsyncStub = AgentServiceStub(await self._channel(name, *roles or ("client",), **more))
        return stub

    async def letters(self, name: str, **more: Any) -> Any:
        return DeadLetterServiceStub(await self._channel(name, "admin", **more))

    async def _channel(self, name: str, *roles: str, **more: Any) -> Any:
        token = self.tokens.add(name, *roles, **more)
        return await self._opened.enter_async_context(rpc_client.channel(self.worker.address, token=token))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened(tmp_path) as made:
        yield made


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Desk]:
    tokens = Tokens(directory / "tokens.toml")
    token = SecretStr(tokens.add("worker-0", Role.WORKER, Role.CONTROLPLANE))
    labelled = type(COUNTER)()
    labelled.CopyFrom(COUNTER)
    labelled.metadata.labels["team"] = "shop"
    async with (
        serving_worker(directory, tokens=tokens.path, token=token) as worker,
        AsyncExitStack() as stack,
    ):
        await worker.apply(config(1, labelled, PLAIN))
        await worker.place()
        yield Desk(worker, tokens, stack)


def ref(agent: str = "counter", session: str = "s", tenant: str = "") -> SessionRef:
    return SessionRef(tenant=tenant, agent=agent, session=session)


async def sent(
    client: "AgentServiceAsyncStub", session: SessionRef, text: str = "hello", **more: Any
) -> pb.MessageStatus:
    request = pb.SendRequest(session=session, content=Content(text=text), wait=duration(10), **more)
    with translated():
        return (await client.Send(request, timeout=15)).status


async def listed(client: "AgentServiceAsyncStub", **parent: str) -> list[str]:
    request = pb.ListSessionsRequest(parent=SessionRef(**parent))
    with translated():
        found = (await client.ListSessions(request, timeout=10)).sessions
    return sorted(f"{one.session.tenant}/{one.session.agent}/{one.session.session}" for one in found)


CALLS: dict[str, Callable[["AgentServiceAsyncStub", SessionRef], Awaitable[Any]]] = {
    "Send": sent,
    "Converse": lambda client, to: first(client.Converse(pb.ConverseRequest(message=pb.SendRequest(session=to)))),
    "Subscribe": lambda client, to: first(client.Subscribe(pb.SubscribeRequest(session=to, message_id="m"))),
    "GetMessage": lambda client, to: client.GetMessage(pb.GetMessageRequest(session=to, message_id="m")),
    "GetSession": lambda client, to: client.GetSession(pb.GetSessionRequest(session=to)),
    "DeleteSession": lambda client, to: client.DeleteSession(pb.DeleteSessionRequest(session=to)),
    "ControlTurns": lambda client, to: first(
        client.ControlTurns(
            pb.ControlTurnsRequest(verb=pb.VERB_CANCEL, messages=[pb.MessageRef(session=to, message_id="m")])
        )
    ),
}
"""Every call that names a session."""


async def first(stream: Any) -> Any:
    async for one in stream:
        return one
    return None


async def denial(name: str, client: "AgentServiceAsyncStub", to: SessionRef) -> PermissionDenied:
    with pytest.raises(PermissionDenied) as denied, translated():
        await CALLS[name](client, to)
    return denied.value


@pytest.mark.parametrize("call", CALLS)
async def test_a_client_names_no_tenant_and_reaches_no_agent_without_its_labels(call: str, desk: Desk) -> None:
    shop = await desk.client("shop", tenant='"acme"', agents='{ team = "shop" }')
    assert (await denial(call, shop, ref(tenant="rival"))).reason == "TENANT_SET"
    assert (await denial(call, shop, ref(tenant="acme"))).reason == "TENANT_SET"
    assert (await denial(call, shop, ref("plain"))).reason == "OTHER_AGENT"
    assert (await denial(call, shop, ref("nobody"))).reason == "OTHER_AGENT"


def test_every_call_that_names_a_session_is_tried() -> None:
    named = {method.name for method in pb.DESCRIPTOR.services_by_name["AgentService"].methods}
    assert named - CALLS.keys() == {"ListSessions"}


async def test_each_tenant_has_sessions_of_its_own(desk: Desk) -> None:
    acme, rival = await desk.client("a", tenant='"acme"'), await desk.client("r", tenant='"rival"')
    assert [(await sent(acme, ref())).result.text for _ in range(2)] == ["1", "2"]
    with pytest.raises(NotFound), translated():
        await rival.GetSession(pb.GetSessionRequest(session=ref()))
    assert (await sent(rival, ref())).result.text == "1"
    assert await listed(acme) == await listed(acme, agent="counter") == ["acme/counter/s"]
    assert await listed(rival) == ["rival/counter/s"]
    await rival.DeleteSession(pb.DeleteSessionRequest(session=ref()))
    assert await listed(acme) == ["acme/counter/s"]


async def test_a_client_hears_of_no_other_agents(desk: Desk) -> None:
    everybody = await desk.client("desk", tenant='"acme"')
    shop = await desk.client("shop", tenant='"acme"', agents='{ team = "shop" }')
    none = await desk.client("none", tenant='"acme"', agents='{ team = "shop", tier = "gold" }')
    for agent in ("counter", "plain"):
        await sent(everybody, ref(agent))
    assert await listed(everybody) == ["acme/counter/s", "acme/plain/s"]
    assert await listed(shop) == ["acme/counter/s"]
    assert await listed(none) == []
    assert (await sent(shop, ref())).result.text == "2"


async def controlled(client: "AgentServiceAsyncStub", verb: "pb.Verb.ValueType", **selector: Any) -> list[str]:
    request = pb.ControlTurnsRequest(verb=verb, selector=pb.TurnSelector(**selector))
    with translated():
        found = [one.message async for one in client.ControlTurns(request, timeout=10)]
    return sorted(f"{one.session.agent}/{one.message_id}" for one in found)


async def test_a_selector_means_turns_of_the_tenant_and_of_agents_that_are_reached(desk: Desk) -> None:
    acme, rival = await desk.client("a", tenant='"acme"'), await desk.client("r", tenant='"rival"')
    shop = await desk.client("shop", tenant='"acme"', agents='{ team = "shop" }')
    for client, name in ((acme, "ours"), (rival, "theirs")):
        for agent in ("counter", "plain"):
            later = pb.SendRequest(
                session=ref(agent), message_id=name, content=Content(text="x"), deliver_after=duration(3600)
            )
            await client.Send(later)
    async with asyncio.timeout(10):
        for client in (acme, rival):
            while len(await controlled(client, pb.VERB_PAUSE)) < 2:  # noqa: ASYNC110 - on its way it is not selected
                await asyncio.sleep(0.01)
    assert await controlled(shop, pb.VERB_RESUME) == ["counter/ours"]
    assert await controlled(shop, pb.VERB_CANCEL) == ["counter/ours"]
    assert await controlled(acme, pb.VERB_KILL) == ["plain/ours"]
    assert await controlled(rival, pb.VERB_RESUME) == ["counter/theirs", "plain/theirs"]
    with pytest.raises(PermissionDenied) as denied:
        await controlled(acme, pb.VERB_KILL, session=SessionRef(tenant="rival"))
    assert denied.value.reason == "TENANT_SET"


async def test_labels_are_those_of_the_current_revision(desk: Desk) -> None:
    shop = await desk.client("shop", agents='{ team = "shop" }')
    await sent(shop, ref())
    await desk.worker.apply(config(2, COUNTER, PLAIN))
    assert (await denial("Send", shop, ref())).reason == "OTHER_AGENT"


async def test_dead_letters_are_the_tenants_own(desk: Desk) -> None:
    acme = await desk.client("a", tenant='"acme"')
    assert (await sent(acme, ref(), "wrong")).error.reason == "WRONG"
    own, others = await desk.letters("own", tenant='"acme"'), await desk.letters("others")
    listing = letters.ListDeadLettersRequest()
    assert len((await own.ListDeadLetters(listing)).letters) == 1
    assert len((await others.ListDeadLetters(listing)).letters) == 0
    with pytest.raises(PermissionDenied), translated():
        named = letters.DeadLetterFilter(session=SessionRef(tenant="acme"))
        await others.ListDeadLetters(letters.ListDeadLettersRequest(filter=named))


async def test_only_a_worker_speaks_for_a_tenant_and_passes_calls_on(desk: Desk) -> None:
    acme, worker = await desk.client("a", tenant='"acme"'), await desk.client("worker-1", "worker")
    done = await sent(acme, ref(), message_id="m")
    for client, session in ((worker, ref(tenant="acme")), (acme, ref())):
        request = pb.GetMessageRequest(session=session, message_id="m")
        with translated():
            told = (await client.GetMessage(request, metadata=(RELAYED,), timeout=10)).status
        assert told.result.text == done.result.text
    with pytest.raises(PermissionDenied) as denied, translated():
        await worker.Send(pb.SendRequest(session=ref(tenant="acme")), timeout=10)
    assert denied.value.metadata["missing_role"] == "client"
