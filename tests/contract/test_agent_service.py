"""AgentService of a real worker over gRPC."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support import scripted_actor
from support.serving_worker import ServingWorker, counting_worker, serving_worker

from troupe.chassis import errors
from troupe.chassis.errors import AlreadyExists, InvalidArgument, NotFound, TroupeError, Unavailable, Unimplemented
from troupe.chassis.rpc_client import translated
from troupe.chassis.wire import duration, timestamp
from troupe.v1 import agent_pb2 as pb
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import MessageRef, SendRequest
from troupe.v1.envelope_pb2 import Content, Data, SessionRef


@pytest.fixture
async def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ServingWorker]:
    monkeypatch.setattr(scripted_actor, "OPEN", asyncio.Event())
    async with counting_worker(tmp_path) as serving:
        yield serving


def ref(session: str = "s") -> SessionRef:
    return SessionRef(agent="counter", session=session)


def message(text: str = "hello", session: str = "s", **parts: Any) -> SendRequest:
    return SendRequest(session=ref(session), content=Content(text=text), **parts)


async def test_send_without_wait_answers_at_the_confirm(worker: ServingWorker) -> None:
    sent = await worker.agents.Send(message())
    assert sent.status.fate == turn_pb2.FATE_UNSEEN
    got = await worker.agents.GetMessage(
        pb.GetMessageRequest(session=ref(), message_id=sent.message_id, wait=duration(20))
    )
    assert (got.status.fate, got.status.result.text) == (turn_pb2.FATE_DONE, "1")


async def test_send_with_wait_answers_with_the_fate_and_again_with_the_stored_one(worker: ServingWorker) -> None:
    first = await worker.agents.Send(message(message_id="m", wait=duration(20)))
    again = await worker.agents.Send(message(message_id="m", wait=duration(20)))
    assert first.status.result.text == again.status.result.text == "1"
    assert first.status.attempts == again.status.attempts == 1
    with pytest.raises(AlreadyExists) as refused, translated():
        await worker.agents.Send(message("other", message_id="m", wait=duration(20)))
    assert refused.value.metadata["source"] == "turn"


async def test_a_wait_that_ends_says_where_the_message_stands(worker: ServingWorker) -> None:
    running = await worker.agents.Send(message("wait", wait=duration(1.0)))
    waiting = await worker.agents.Send(message("next", wait=duration(1.0)))
    assert running.status.fate == turn_pb2.FATE_RUNNING
    assert waiting.status.fate == turn_pb2.FATE_WAITING
    session = (await worker.agents.GetSession(pb.GetSessionRequest(session=ref()))).session
    assert session.state == pb.SESSION_STATE_RUNNING
    assert session.running_message_id == running.message_id
    assert session.waiting == 1
    scripted_actor.OPEN.set()


async def test_a_dead_message_is_a_status_not_an_error(worker: ServingWorker) -> None:
    for text, reason in (("wrong", "WRONG"), ("bad state", "BAD_STATE")):
        status = (await worker.agents.Send(message(text, wait=duration(20)))).status
        assert (status.fate, status.error.reason) == (turn_pb2.FATE_DEAD, reason)


async def test_converse_streams_to_the_end(worker: ServingWorker) -> None:
    events = [response.event async for response in worker.agents.Converse(pb.ConverseRequest(message=message()))]
    assert [event.WhichOneof("kind") for event in events] == ["accepted", "started", "completed"]


@pytest.mark.parametrize("cancels", [True, False])
async def test_a_client_that_goes_cancels_only_where_it_said_so(worker: ServingWorker, cancels: bool) -> None:
    call = worker.agents.Converse(
        pb.ConverseRequest(message=message("wait", message_id="m"), cancel_on_disconnect=cancels)
    )
    async for response in call:
        if response.event.HasField("started"):
            break
    call.cancel()
    asking = pb.GetMessageRequest(session=ref(), message_id="m", wait=duration(0.5 if not cancels else 5))
    status = (await worker.agents.GetMessage(asking)).status
    assert status.fate == (turn_pb2.FATE_CANCELLED if cancels else turn_pb2.FATE_RUNNING)
    scripted_actor.OPEN.set()


async def test_a_refused_conversation_cancels_nothing(worker: ServingWorker) -> None:
    await worker.agents.Send(message("wait", message_id="m"))
    refused = SendRequest(session=ref(), message_id="m")
    with pytest.raises(InvalidArgument), translated():
        async for _ in worker.agents.Converse(pb.ConverseRequest(message=refused, cancel_on_disconnect=True)):
            pass
    scripted_actor.OPEN.set()
    asking = pb.GetMessageRequest(session=ref(), message_id="m", wait=duration(60))
    assert (await worker.agents.GetMessage(asking)).status.fate == turn_pb2.FATE_DONE


async def test_subscribe_follows_a_session_or_one_message(worker: ServingWorker) -> None:
    kinds: list[str | None] = []

    async def listen() -> None:
        async for response in worker.agents.Subscribe(pb.SubscribeRequest(session=ref())):
            kinds.append(response.event.WhichOneof("kind"))

    listening = asyncio.create_task(listen())
    async with asyncio.timeout(10):
        while "completed" not in kinds:
            await worker.agents.Send(message(wait=duration(20), message_id="m"))
            await worker.agents.Send(message(wait=duration(20)))
    listening.cancel()
    await asyncio.wait([listening])
    settled = worker.agents.Subscribe(pb.SubscribeRequest(session=ref(), message_id="m"))
    (last,) = [response.event async for response in settled]
    assert last.completed.stored


async def test_cancel_over_control_turns(worker: ServingWorker) -> None:
    sent = await worker.agents.Send(message("wait"))
    names = [MessageRef(session=ref(), message_id=sent.message_id), MessageRef(session=ref(), message_id="unseen")]

    async def control(**parts: Any) -> list[int]:
        request = pb.ControlTurnsRequest(verb=pb.VERB_CANCEL, messages=names, **parts)
        return [response.answer async for response in worker.agents.ControlTurns(request)]

    dry = await control(dry_run=True)
    assert pb.VERB_ANSWER_TOO_LATE not in dry
    first = await control(verb_id="v")
    assert await control(verb_id="v") == first
    assert (await control(dry_run=True))[0] == pb.VERB_ANSWER_TOO_LATE


async def test_sessions_are_listed_in_pages_and_deleted(worker: ServingWorker) -> None:
    for number in range(7):
        await worker.agents.Send(message(session=f"s{number}", wait=duration(20)))
    names, token = [], ""
    while True:
        page = await worker.agents.ListSessions(
            pb.ListSessionsRequest(parent=SessionRef(agent="counter"), page_size=3, page_token=token)
        )
        names += [session.session.session for session in page.sessions]
        assert len(page.sessions) <= 3
        if not (token := page.next_page_token):
            break
    assert sorted(names) == [f"s{number}" for number in range(7)]
    await worker.agents.DeleteSession(pb.DeleteSessionRequest(session=ref("s1")))
    with pytest.raises(NotFound), translated():
        await worker.agents.GetSession(pb.GetSessionRequest(session=ref("s1")))
    assert (await worker.agents.Send(message(session="s1", wait=duration(20)))).status.result.text == "1"


NAMED = MessageRef(session=ref(), message_id="m")
EVERYTHING = pb.TurnSelector()


def control(**parts: Any) -> pb.ControlTurnsRequest:
    return pb.ControlTurnsRequest(verb=pb.VERB_PAUSE, **parts)


BAD: list[tuple[str, Any, str]] = [
    ("Send", SendRequest(content=Content(text="x")), "BAD_SESSION"),
    ("Send", message(session="a/b"), "BAD_SESSION"),
    ("Send", message(session="x" * 129), "BAD_SESSION"),
    ("Send", message(message_id="x" * 129), "BAD_MESSAGE_ID"),
    ("Send", SendRequest(session=ref()), "NO_CONTENT"),
    ("Send", message("x" * (16 * 1024 * 1024 + 1)), "PAYLOAD_TOO_LARGE"),
    ("Send", message(expires=duration(0)), "BAD_EXPIRES"),
    ("Send", message(expires=duration(90_000)), "BAD_EXPIRES"),
    ("Send", message(wait=duration(-1)), "BAD_WAIT"),
    ("Send", message(wait=duration(3601)), "BAD_WAIT"),
    ("Send", message(deliver_after=duration(-1)), "BAD_DUE"),
    ("Send", message(deliver_after=duration(1), deliver_at=timestamp(1)), "BAD_DUE"),
    ("Send", message(deliver_at=timestamp(4e9)), "BAD_DUE"),
    ("Send", message(on_busy=pb.ON_BUSY_REJECT), "REJECT_UNHEARD"),
    ("Send", message(attributes={"": "x"}), "BAD_ATTRIBUTES"),
    ("GetMessage", pb.GetMessageRequest(session=ref()), "NO_MESSAGE_ID"),
    ("GetMessage", pb.GetMessageRequest(session=ref(), message_id="x" * 129), "BAD_MESSAGE_ID"),
    ("GetMessage", pb.GetMessageRequest(session=ref(), message_id="m", wait=duration(-1)), "BAD_WAIT"),
    ("GetSession", pb.GetSessionRequest(session=ref(), history=1001), "BAD_HISTORY"),
    ("ListSessions", pb.ListSessionsRequest(parent=ref()), "BAD_PARENT"),
    ("ListSessions", pb.ListSessionsRequest(page_size=1001), "BAD_PAGE_SIZE"),
    ("ListSessions", pb.ListSessionsRequest(page_token="nonsense"), "BAD_PAGE_TOKEN"),
    ("ListSessions", pb.ListSessionsRequest(page_token="9" * 5000 + ":x"), "BAD_PAGE_TOKEN"),
    ("ControlTurns", pb.ControlTurnsRequest(), "NO_VERB"),
    ("ControlTurns", pb.ControlTurnsRequest(verb=pb.VERB_CANCEL), "BAD_MESSAGES"),
    (
        "ControlTurns",
        pb.ControlTurnsRequest(verb=pb.VERB_CANCEL, messages=[MessageRef(session=ref())]),
        "NO_MESSAGE_ID",
    ),
    ("ControlTurns", control(messages=[NAMED] * 1001), "BAD_MESSAGES"),
    ("ControlTurns", control(messages=[NAMED], selector=EVERYTHING), "BAD_MESSAGES"),
    ("ControlTurns", control(messages=[NAMED], limit=1), "NO_SELECTOR"),
    ("ControlTurns", control(messages=[NAMED], shards=[1]), "NO_SELECTOR"),
    ("ControlTurns", control(messages=[NAMED], lifts="v"), "BAD_LIFTS"),
    ("ControlTurns", control(messages=[NAMED], verb_id="x" * 129), "BAD_MESSAGE_ID"),
    ("ControlTurns", control(messages=[NAMED], from_step=0), "BAD_STEP"),
    ("ControlTurns", pb.ControlTurnsRequest(verb=pb.VERB_RESTART, messages=[NAMED]), "BAD_STEP"),
    ("ControlTurns", control(selector=EVERYTHING, limit=10_001), "BAD_LIMIT"),
    ("ControlTurns", control(selector=pb.TurnSelector(fates=[turn_pb2.FATE_DONE])), "BAD_SELECTOR"),
    ("ControlTurns", control(selector=pb.TurnSelector(session=SessionRef(agent="A"))), "BAD_SELECTOR"),
    ("ControlTurns", control(selector=pb.TurnSelector(attributes={"": ""})), "BAD_ATTRIBUTES"),
]
NOT_BUILT: list[tuple[str, Any]] = [
    *(("Send", message(on_busy=value)) for value in (pb.ON_BUSY_INTERRUPT, pb.ON_BUSY_STEER)),
    ("ControlTurns", pb.ControlTurnsRequest(verb=99)),  # type: ignore[arg-type]
]


async def _refusal(worker: ServingWorker, method: str, request: Any) -> TroupeError:
    with pytest.raises(TroupeError) as refused, translated():
        call = getattr(worker.agents, method)(request)
        if method == "ControlTurns":
            async for _ in call:
                pass
        else:
            await call
    return refused.value


async def test_every_bad_argument_is_named(worker: ServingWorker) -> None:
    for method, request, reason in BAD:
        error = await _refusal(worker, method, request)
        assert (type(error), error.reason) == (InvalidArgument, reason), (method, request)
        assert error.metadata["source"] == "gateway"
        assert "\n" not in str(error)


async def test_what_is_not_built_says_so(worker: ServingWorker) -> None:
    for method, request in NOT_BUILT:
        error = await _refusal(worker, method, request)
        assert (type(error), error.reason) == (Unimplemented, "NOT_BUILT"), request


async def test_only_workers_name_shards(worker: ServingWorker) -> None:
    error = await _refusal(worker, "ControlTurns", control(selector=EVERYTHING, shards=[1]))
    assert (type(error), error.reason) == (errors.PermissionDenied, "SHARDS_NAMED")
    foreign = pb.TurnSelector(session=SessionRef(tenant="other"))
    error = await _refusal(worker, "ControlTurns", control(selector=foreign))
    assert (type(error), error.reason) == (errors.PermissionDenied, "TENANT_SET")


async def test_a_client_may_not_name_a_tenant(worker: ServingWorker) -> None:
    foreign = SessionRef(tenant="other", agent="counter", session="s")
    error = await _refusal(worker, "Send", SendRequest(session=foreign, content=Content(text="x")))
    assert isinstance(error, errors.PermissionDenied)


async def test_data_of_any_type_travels(worker: ServingWorker) -> None:
    content = Content(data=Data(content_type="image/png", value=b"\0\xff"))
    sent = await worker.agents.Send(SendRequest(session=ref(), content=content, wait=duration(20)))
    assert sent.status.fate == turn_pb2.FATE_DONE


async def test_a_worker_without_a_placement_says_try_again(tmp_path: Path) -> None:
    async with serving_worker(tmp_path) as worker:
        error = await _refusal(worker, "Send", message())
        assert isinstance(error, Unavailable)
        assert error.retry_after
