"""DeadLetterService of a real worker over gRPC."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.serving_worker import ServingWorker, counting_worker, serving_worker

from troupe.chassis.errors import InvalidArgument, NotFound, PermissionDenied, TroupeError, Unavailable
from troupe.chassis.ids import uuid7
from troupe.chassis.rpc_client import channel, translated
from troupe.chassis.wire import duration
from troupe.dataplane import placement
from troupe.v1 import dead_letter_pb2 as pb
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import GetMessageRequest, SendRequest
from troupe.v1.dead_letter_pb2 import DeadLetter, DeadLetterFilter
from troupe.v1.envelope_pb2 import Content, SessionRef


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[ServingWorker]:
    async with counting_worker(tmp_path) as serving:
        yield serving


def ref(session: str = "s") -> SessionRef:
    return SessionRef(agent="counter", session=session)


async def give_up(worker: ServingWorker, session: str = "s", text: str = "wrong") -> str:
    """Send what the counter cannot do; the message's id."""
    request = SendRequest(session=ref(session), content=Content(text=text), wait=duration(5))
    status = (await worker.agents.Send(request)).status
    assert status.fate == turn_pb2.FATE_DEAD
    return status.message_id


async def listed(worker: ServingWorker, **fields: Any) -> list[DeadLetter]:
    return list((await worker.letters.ListDeadLetters(pb.ListDeadLettersRequest(**fields))).letters)


async def test_a_message_that_was_given_up_is_found_with_what_it_said(worker: ServingWorker) -> None:
    message_id = await give_up(worker)
    (letter,) = await listed(worker)
    assert (letter.message_id, letter.session.agent, letter.death.reason) == (message_id, "counter", "WRONG")
    assert (letter.death.attempts, letter.death.worker_id, letter.pool) == (1, "worker-0", "agents")
    assert letter.death.revision_id
    got = await worker.letters.GetDeadLetter(pb.GetDeadLetterRequest(letter_id=letter.letter_id))
    assert (got.letter, got.content.text) == (letter, "wrong")


async def test_a_letter_knows_its_trace(worker: ServingWorker) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    request = SendRequest(session=ref(), content=Content(text="wrong"), wait=duration(5))
    await worker.agents.Send(request, metadata=(("traceparent", f"00-{trace}-b7ad6b7169203331-01"),))
    await give_up(worker)
    assert [one.death.trace_id for one in await listed(worker)] == [trace, ""]


async def test_letters_are_paged(worker: ServingWorker) -> None:
    sent = [await give_up(worker, f"s{number}") for number in range(5)]
    first = await worker.letters.ListDeadLetters(pb.ListDeadLettersRequest(page_size=3))
    rest = await worker.letters.ListDeadLetters(
        pb.ListDeadLettersRequest(page_size=3, page_token=first.next_page_token)
    )
    assert [one.message_id for one in [*first.letters, *rest.letters]] == sent
    assert not rest.next_page_token


async def test_a_filter_narrows(worker: ServingWorker) -> None:
    await give_up(worker, "a")
    bad = await give_up(worker, "b", "bad state")
    chosen = [DeadLetterFilter(reasons=["BAD_STATE"]), DeadLetterFilter(session=SessionRef(session="b"))]
    assert [[one.message_id for one in await listed(worker, filter=each)] for each in chosen] == [[bad], [bad]]


async def test_redriving_and_purging_let_letters_go(worker: ServingWorker) -> None:
    await give_up(worker, "a")
    await give_up(worker, "b")
    request = pb.RedriveRequest(filter=DeadLetterFilter(session=ref("a")), dry_run=True)
    dry = [one async for one in worker.letters.Redrive(request)]
    assert [one.outcome for one in dry] == [pb.REDRIVE_OUTCOME_REDRIVEN]
    assert len(await listed(worker)) == 2
    (b,) = await listed(worker, filter=DeadLetterFilter(session=ref("b")))
    purged = [
        one async for one in worker.letters.Purge(pb.PurgeRequest(filter=DeadLetterFilter(letter_ids=[b.letter_id])))
    ]
    assert [one.letter.letter_id for one in purged] == [b.letter_id]
    assert [one.session.session for one in await listed(worker)] == ["a"]
    assert len([one async for one in worker.letters.Purge(pb.PurgeRequest(all=True))]) == 1
    assert await listed(worker) == []


async def test_a_redriven_message_runs_again_and_dies_with_its_history(worker: ServingWorker) -> None:
    """Given a message that cannot succeed, when it is redriven, then it is given up once more, in a letter that knows
    of the first."""
    message_id = await give_up(worker)
    (first,) = await listed(worker)
    assert [one.outcome async for one in worker.letters.Redrive(pb.RedriveRequest())] == [pb.REDRIVE_OUTCOME_REDRIVEN]
    after = await give_up(worker, text="bad state")
    again, last = await listed(worker)
    assert (again.message_id, last.message_id) == (message_id, after)
    assert again.letter_id > first.letter_id
    assert (again.redrives, [one.reason for one in again.earlier]) == (1, ["WRONG"])
    asking = GetMessageRequest(session=ref(), message_id=message_id)
    assert (await worker.agents.GetMessage(asking)).status.fate == turn_pb2.FATE_DEAD


async def test_it_is_among_the_services_of_health_checks(worker: ServingWorker) -> None:
    async with channel(worker.address) as connection:
        stub: Any = health_pb2_grpc.HealthStub(connection)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service="troupe.v1.DeadLetterService"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


NEVER = Timestamp(seconds=2**60)
BAD: list[tuple[str, Any, list[str]]] = [
    ("ListDeadLetters", pb.ListDeadLettersRequest(pool="No Pool"), ["pool"]),
    ("ListDeadLetters", pb.ListDeadLettersRequest(page_size=1001), ["page_size"]),
    ("ListDeadLetters", pb.ListDeadLettersRequest(page_token="nonsense"), ["page_token"]),
    ("ListDeadLetters", pb.ListDeadLettersRequest(filter=DeadLetterFilter(letter_ids=["x"])), ["filter.letter_ids[0]"]),
    (
        "ListDeadLetters",
        pb.ListDeadLettersRequest(filter=DeadLetterFilter(letter_ids=[uuid7()] * 1001)),
        ["filter.letter_ids"],
    ),
    (
        "ListDeadLetters",
        pb.ListDeadLettersRequest(filter=DeadLetterFilter(session=SessionRef(namespace="A", agent="B", session="a/b"))),
        ["filter.session.namespace", "filter.session.agent", "filter.session.session"],
    ),
    (
        "ListDeadLetters",
        pb.ListDeadLettersRequest(page_size=2000, filter=DeadLetterFilter(since=NEVER, before=NEVER)),
        ["filter.since", "filter.before", "page_size"],
    ),
    ("GetDeadLetter", pb.GetDeadLetterRequest(), ["letter_id"]),
    ("GetDeadLetter", pb.GetDeadLetterRequest(pool="-", letter_id="X"), ["pool", "letter_id"]),
    ("Redrive", pb.RedriveRequest(rate=-1), ["rate"]),
    ("Redrive", pb.RedriveRequest(rate=float("nan")), ["rate"]),
    ("Redrive", pb.RedriveRequest(rate=100_001, pool="A"), ["pool", "rate"]),
    ("Purge", pb.PurgeRequest(), ["filter"]),
    ("Purge", pb.PurgeRequest(filter=DeadLetterFilter(session=SessionRef())), ["filter"]),
    ("Purge", pb.PurgeRequest(all=True, filter=DeadLetterFilter(reasons=["X"])), ["all"]),
]


async def refusal(worker: ServingWorker, method: str, request: Any) -> TroupeError:
    with pytest.raises(TroupeError) as refused, translated():
        call = getattr(worker.letters, method)(request)
        if method in ("Redrive", "Purge"):
            async for _ in call:
                pass
        else:
            await call
    return refused.value


async def test_every_bad_argument_is_named(worker: ServingWorker) -> None:
    for method, request, fields in BAD:
        error = await refusal(worker, method, request)
        assert isinstance(error, InvalidArgument), (method, request)
        assert [one.field for one in error.violations] == fields
        assert str(error).startswith(fields[0])


async def test_a_client_may_not_name_a_tenant(worker: ServingWorker) -> None:
    theirs = DeadLetterFilter(session=SessionRef(tenant="other"))
    for method, request in (
        ("ListDeadLetters", pb.ListDeadLettersRequest(filter=theirs)),
        ("Redrive", pb.RedriveRequest(filter=theirs)),
        ("Purge", pb.PurgeRequest(filter=theirs)),
    ):
        assert isinstance(await refusal(worker, method, request), PermissionDenied)


async def test_what_is_not_there_is_not_found(worker: ServingWorker) -> None:
    missing = await refusal(worker, "GetDeadLetter", pb.GetDeadLetterRequest(letter_id=uuid7()))
    assert (type(missing), missing.reason) == (NotFound, "LETTER_UNKNOWN")
    for method, request in (
        ("ListDeadLetters", pb.ListDeadLettersRequest(pool="nowhere")),
        ("Redrive", pb.RedriveRequest(pool="nowhere")),
        ("Purge", pb.PurgeRequest(pool="nowhere", all=True)),
    ):
        assert isinstance(await refusal(worker, method, request), NotFound)


async def test_a_worker_without_a_placement_lists_and_does_not_redrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "PATIENCE", 0.1)
    async with serving_worker(tmp_path) as worker:
        assert await listed(worker) == []
        assert isinstance(await refusal(worker, "Redrive", pb.RedriveRequest()), Unavailable)
