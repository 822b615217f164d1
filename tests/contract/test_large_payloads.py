"""Contents over 256 KiB: whole for clients and actors, by reference on the way, on one worker and across two."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.serving_worker import COUNTER
from support.worker_fleet import WorkerFleet, worker_fleet

from troupe.broker.envelope import MAX_PAYLOAD, decode
from troupe.chassis.errors import AlreadyExists, InvalidArgument
from troupe.chassis.rpc_client import channel, translated
from troupe.chassis.wire import duration
from troupe.v1 import agent_pb2 as pb
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import MessageStatus, SendRequest
from troupe.v1.dead_letter_pb2 import GetDeadLetterRequest, ListDeadLettersRequest
from troupe.v1.dead_letter_pb2_grpc import DeadLetterServiceStub
from troupe.v1.envelope_pb2 import Blob, Content, Data, SessionRef

LARGE = bytes(range(256)) * 8 * 1024
"""2 MiB."""
REF = SessionRef(agent="counter", session="s")


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[WorkerFleet]:
    """`owner` has every shard, `other` none; both use one blob store."""
    async with worker_fleet(tmp_path, "owner", "other", resources=[COUNTER], blobs=f"file:///{tmp_path}/blobs") as it:
        yield it


def message(value: bytes = LARGE, message_id: str = "m") -> SendRequest:
    content = Content(data=Data(content_type="image/x-test", value=value))
    return SendRequest(session=REF, message_id=message_id, content=content, wait=duration(20))


def result(status: MessageStatus) -> tuple[str, bytes]:
    assert status.fate == turn_pb2.FATE_DONE
    return status.result.data.content_type, status.result.data.value


@pytest.mark.parametrize("called", ["owner", "other"])
async def test_a_large_message_and_its_large_answer_come_whole(fleet: WorkerFleet, called: str) -> None:
    agents = fleet.members[called].agents
    answer = "image/x-test", LARGE[::-1]

    assert result((await agents.Send(message())).status) == answer
    assert result((await agents.Send(message())).status) == answer
    asked = await agents.GetMessage(pb.GetMessageRequest(session=REF, message_id="m"))
    assert result(asked.status) == answer
    events = [event.event async for event in agents.Converse(pb.ConverseRequest(message=message(message_id="n")))]
    assert events[-1].completed.result.data.value == LARGE[::-1]


async def test_on_its_way_it_is_small(fleet: WorkerFleet) -> None:
    owner = fleet.members["owner"]
    bodies: list[bytes] = []

    async def publish(envelope: object, *_: object) -> None:
        bodies.append(envelope.SerializeToString())  # type: ignore[attr-defined]

    owner.broker.before["publish"] = publish
    await owner.agents.Send(message())

    (body,) = bodies
    assert len(body) < 1024
    assert decode(body).content.blob.size == len(LARGE)


async def test_a_copy_with_another_large_payload_is_told_apart(fleet: WorkerFleet) -> None:
    agents = fleet.members["other"].agents
    await agents.Send(message())

    with pytest.raises(AlreadyExists), translated():
        await agents.Send(message(LARGE + b"x"))


async def test_a_dead_letter_shows_a_large_message_whole(fleet: WorkerFleet) -> None:
    member = fleet.members["owner"]
    text = "wrong" + "x" * MAX_PAYLOAD
    await member.agents.Send(SendRequest(session=REF, content=Content(text=text), wait=duration(20)))

    async with channel(member.address) as connection:
        stub = DeadLetterServiceStub(connection)
        (letter,) = (await stub.ListDeadLetters(ListDeadLettersRequest())).letters
        shown = await stub.GetDeadLetter(GetDeadLetterRequest(letter_id=letter.letter_id))
    assert shown.content.text == text
    assert letter.size < 1024


async def test_a_message_whose_payload_is_gone_is_given_up_and_says_so(fleet: WorkerFleet, tmp_path: Path) -> None:
    owner = fleet.members["owner"]
    await owner.agents.Send(message())
    for blob in (tmp_path / "blobs").rglob("*"):
        if blob.is_file():
            blob.write_bytes(b"damaged")

    status = (await owner.agents.Send(message(message_id="again"))).status

    assert (status.fate, status.error.reason) == (turn_pb2.FATE_DEAD, "BLOB_DAMAGED")


async def test_what_is_too_large_for_anything_and_what_names_a_blob_are_refused(fleet: WorkerFleet) -> None:
    agents = fleet.members["owner"].agents

    with pytest.raises(InvalidArgument, match="bytes are more than the"), translated():
        await agents.Send(message(b"x" * (16 * 1024 * 1024)))
    named = SendRequest(session=REF, content=Content(blob=Blob(sha256=b"x" * 32, size=1)))
    with pytest.raises(InvalidArgument, match=r"content\.blob"), translated():
        await agents.Send(named)
