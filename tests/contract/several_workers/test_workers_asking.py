"""Sessions that are asked about, cancelled and deleted on another worker than their own."""

import asyncio

import pytest
from support import scripted_actor
from support.member_calls import REF, Stream, converse, get, message, send, session
from support.worker_fleet import Member

from troupe.chassis.errors import NotFound
from troupe.v1 import agent_pb2 as pb
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import MessageRef


class TestAsking:
    async def test_where_a_message_stands(self, owner: Member, other: Member) -> None:
        running = await send(other, "wait", wait=1.0, message_id="m")
        waiting = await send(other, "next", wait=1.0, message_id="n")
        assert (running.fate, waiting.fate) == (turn_pb2.FATE_RUNNING, turn_pb2.FATE_WAITING)
        assert (await get(other)).fate == turn_pb2.FATE_RUNNING
        assert (await get(other, "unseen")).fate == turn_pb2.FATE_UNSEEN
        shown = await session(other)
        assert (shown.state, shown.running_message_id) == (pb.SESSION_STATE_RUNNING, "m")
        assert (shown.waiting, shown.worker_id) == (1, "owner")
        scripted_actor.OPEN.set()
        assert (await get(other, "n", wait=5)).result.text == "2"

    async def test_a_session_that_nobody_knows(self, other: Member) -> None:
        with pytest.raises(NotFound) as unknown:
            await session(other)
        assert unknown.value.reason == "SESSION_UNKNOWN"

    async def test_listed_sessions_name_their_worker(self, owner: Member, other: Member) -> None:
        await send(other)
        for member in (owner, other):
            (shown,) = (await member.agents.ListSessions(pb.ListSessionsRequest())).sessions
            assert shown.worker_id == "owner"

    async def test_a_cancel_stops_the_turn_where_it_runs(self, owner: Member, other: Member) -> None:
        stream = converse(owner, "wait", message_id="m")
        await stream.has("started")
        request = pb.ControlTurnsRequest(
            verb=pb.VERB_CANCEL, verb_id="v", messages=[MessageRef(session=REF, message_id="m")]
        )
        answers = [response.answer async for response in other.agents.ControlTurns(request)]
        assert answers == [pb.VERB_ANSWER_PENDING]
        assert (await stream.end()).failed.fate == turn_pb2.FATE_CANCELLED

    async def test_a_message_that_is_cancelled_where_it_waits_ends_for_all_who_follow(
        self, owner: Member, other: Member
    ) -> None:
        running = converse(owner, "wait")
        await running.has("started")
        streams = [converse(member, message_id="m") for member in (owner, other)]
        async with asyncio.timeout(10):
            while (await get(owner)).fate != turn_pb2.FATE_WAITING:  # noqa: ASYNC110 - it is in the code under test
                await asyncio.sleep(0.01)
        request = pb.ControlTurnsRequest(verb=pb.VERB_CANCEL, messages=[MessageRef(session=REF, message_id="m")])
        assert [one.answer async for one in other.agents.ControlTurns(request)] == [pb.VERB_ANSWER_APPLIED]
        for stream in streams:
            assert (await stream.end()).failed.fate == turn_pb2.FATE_CANCELLED
        scripted_actor.OPEN.set()
        await running.end()

    async def test_a_client_that_goes_can_cancel(self, owner: Member, other: Member) -> None:
        call = other.agents.Converse(
            pb.ConverseRequest(message=message("wait", message_id="m"), cancel_on_disconnect=True)
        )
        stream = Stream(call)
        await stream.has("started")
        await stream.leave()
        assert (await get(owner, wait=5)).fate == turn_pb2.FATE_CANCELLED

    async def test_a_session_is_deleted_by_its_owner(self, owner: Member, other: Member) -> None:
        await send(other)
        running = converse(other, "wait")
        await running.has("started")
        deleted = await other.agents.DeleteSession(pb.DeleteSessionRequest(session=REF))
        assert deleted.cancelled == 1
        assert (await running.end()).failed.fate == turn_pb2.FATE_CANCELLED
        with pytest.raises(NotFound):
            await session(other)
        assert (await send(other)).result.text == "1"
