"""A message that was redriven reads as on its way, and who waits for its fate waits for the end of the copy."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support import scripted_actor
from support.hosting import until
from support.serving_worker import COUNTER, SHARDS
from support.worker_fleet import Member, WorkerFleet, worker_fleet

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.chassis.errors import Unavailable
from troupe.chassis.rpc_client import translated
from troupe.chassis.wire import duration
from troupe.v1 import agent_pb2 as pb
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import MessageRef, MessageStatus
from troupe.v1.dead_letter_pb2 import (
    REDRIVE_OUTCOME_OBSOLETE,
    REDRIVE_OUTCOME_REDRIVEN,
    ListDeadLettersRequest,
    RedriveRequest,
)
from troupe.v1.envelope_pb2 import Content, SessionRef
from troupe.v1.turn_pb2 import Event, Fate

REF = SessionRef(agent="counter", session="s")
KEY = SessionKey.of(REF)
SHARD = KEY.shard(SHARDS)


@pytest.fixture
async def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WorkerFleet]:
    """Message m, which fails before OPEN is set, was given up; `owner` has every shard, `other` none."""
    monkeypatch.setattr(scripted_actor, "OPEN", asyncio.Event())
    async with worker_fleet(tmp_path, "owner", "other", resources=[COUNTER]) as opened:
        assert (await send(opened.members["owner"])).fate == turn_pb2.FATE_DEAD
        yield opened


@pytest.fixture
def owner(fleet: WorkerFleet) -> Member:
    return fleet.members["owner"]


@pytest.fixture
def other(fleet: WorkerFleet) -> Member:
    return fleet.members["other"]


@pytest.fixture(params=["owner", "other"])
def called(fleet: WorkerFleet, request: pytest.FixtureRequest) -> Member:
    """The worker that a client happens to call."""
    return fleet.members[request.param]


async def send(member: Member, text: str = "not yet", message_id: str = "m", wait: float = 10.0) -> MessageStatus:
    request = pb.SendRequest(session=REF, message_id=message_id, content=Content(text=text), wait=duration(wait))
    return (await member.agents.Send(request, timeout=15)).status


async def get(member: Member, wait: float = 0.0) -> MessageStatus:
    request = pb.GetMessageRequest(session=REF, message_id="m", wait=duration(wait))
    return (await member.agents.GetMessage(request, timeout=15)).status


async def last_event(member: Member) -> Event:
    call = member.agents.Subscribe(pb.SubscribeRequest(session=REF, message_id="m"), timeout=15)
    return [response.event async for response in call][-1]


async def redrive(member: Member) -> None:
    outcomes = [response.outcome async for response in member.worker.letters.Redrive(RedriveRequest(), timeout=15)]
    assert outcomes == [REDRIVE_OUTCOME_REDRIVEN]


async def is_told(member: Member, fate: Fate.ValueType) -> None:
    async with asyncio.timeout(10):
        while (await get(member)).fate != fate:  # noqa: ASYNC110 - it is in the code under test
            await asyncio.sleep(0.02)


async def hand_over(fleet: WorkerFleet) -> None:
    """Nobody takes messages until the shards are given to somebody."""
    await fleet.place({}, revoked=range(SHARDS), live=fleet.members.values())
    async with asyncio.timeout(10):
        while (await fleet.members["owner"].worker.report()).shards:  # noqa: ASYNC110 - it is in the code under test
            await asyncio.sleep(0.02)


async def test_it_reads_as_on_its_way_and_its_new_end_is_waited_for(
    fleet: WorkerFleet, owner: Member, called: Member
) -> None:
    # Given a redriven copy that stays in its mailbox
    await hand_over(fleet)
    await redrive(called)
    # Then the message is on its way
    assert (await get(called)).fate == turn_pb2.FATE_UNSEEN
    assert (await get(called, wait=0.3)).fate == turn_pb2.FATE_UNSEEN

    # When the copy ends well
    published = called.broker.calls["publish"] + 1
    waiting = [asyncio.create_task(get(called, wait=10)), asyncio.create_task(send(called))]
    following = asyncio.create_task(last_event(called))
    await until(lambda: called.broker.calls["publish"] >= published)
    scripted_actor.OPEN.set()
    await fleet.give_all(owner, live=fleet.members.values())

    # Then that is what everybody gets
    for status in await asyncio.gather(*waiting):
        assert (status.fate, status.result.text) == (turn_pb2.FATE_DONE, "1")
    assert (await following).completed.result.text == "1"


async def test_it_waits_in_its_inbox_like_any_other(owner: Member, called: Member) -> None:
    held = asyncio.create_task(send(owner, "wait", "held"))
    async with asyncio.timeout(10):
        while not (await owner.worker.report()).shards[SHARD].running_sessions:  # noqa: ASYNC110 - it is in the code
            await asyncio.sleep(0.02)
    await redrive(called)
    await is_told(called, turn_pb2.FATE_WAITING)
    assert (await get(called, wait=0.3)).fate == turn_pb2.FATE_WAITING

    again = asyncio.create_task(send(called))
    scripted_actor.OPEN.set()

    assert (await again).fate == turn_pb2.FATE_DONE
    await held


async def test_one_that_fails_once_more_is_dead_once_more(fleet: WorkerFleet, owner: Member, called: Member) -> None:
    await hand_over(fleet)
    await redrive(called)
    before = (await get(called)).settled_at
    waiting = asyncio.create_task(get(called, wait=10))
    await fleet.give_all(owner, live=fleet.members.values())

    status = await waiting

    assert (status.fate, status.error.reason) == (turn_pb2.FATE_DEAD, "NOT_YET")
    assert status.settled_at != before
    assert (await get(called)).fate == turn_pb2.FATE_DEAD


async def test_what_its_sender_repeats_is_answered_with_the_end_of_the_copy(
    fleet: WorkerFleet, owner: Member, called: Member
) -> None:
    """The repeated one is settled first, as a copy of what ended dead."""
    await fleet.store.redrive(KEY, "m", Number("on its way", 1))
    commits = owner.store.calls["commit"]
    again = asyncio.create_task(send(called))
    await until(lambda: owner.store.calls["commit"] > commits)
    assert (await send(called, "hello", "after")).result.text == "1"
    assert not again.done()

    scripted_actor.OPEN.set()
    await redrive(called)

    assert (await again).result.text == "2"


async def test_it_can_be_cancelled_on_its_way(fleet: WorkerFleet, owner: Member, called: Member) -> None:
    await hand_over(fleet)
    await redrive(called)
    request = pb.ControlTurnsRequest(verb=pb.VERB_CANCEL, messages=[MessageRef(session=REF, message_id="m")])
    assert [one.answer async for one in called.agents.ControlTurns(request)] == [pb.VERB_ANSWER_PENDING]

    await fleet.give_all(owner, live=fleet.members.values())

    assert (await get(called, wait=10)).fate == turn_pb2.FATE_CANCELLED


async def test_where_the_store_is_not_told_the_letter_stays(fleet: WorkerFleet, owner: Member, other: Member) -> None:
    """Redriving it once more does no harm."""

    async def away(*_: object) -> None:
        raise Unavailable("STORE_AWAY", "the store is away")

    other.store.before["redrive"] = away
    scripted_actor.OPEN.set()
    with pytest.raises(Unavailable), translated():
        await redrive(other)
    del other.store.before["redrive"]

    assert [one.message_id for one in (await other.worker.letters.ListDeadLetters(ListDeadLettersRequest())).letters]
    await is_told(owner, turn_pb2.FATE_DONE)
    outcomes = [response.outcome async for response in other.worker.letters.Redrive(RedriveRequest(), timeout=15)]
    assert outcomes == [REDRIVE_OUTCOME_OBSOLETE]
    assert (await get(owner)).result.text == "1"
