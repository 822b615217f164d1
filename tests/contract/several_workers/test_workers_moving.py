"""Sessions that move to another worker while clients follow them."""

import asyncio
import socket

import pytest
from support import scripted_actor
from support.hosting import until
from support.member_calls import REF, Stream, converse, get, send, session
from support.serving_worker import COUNTER, SHARDS
from support.worker_fleet import Member, WorkerFleet

from troupe.chassis.errors import Unavailable
from troupe.chassis.rpc_client import translated
from troupe.dataplane import peers
from troupe.dataplane.actors import handover
from troupe.v1 import agent_pb2 as pb
from troupe.v1 import turn_pb2
from troupe.v1.envelope_pb2 import SessionRef


class TestMoving:
    @pytest.mark.parametrize("said", [True, False], ids=["placed first", "killed first"])
    async def test_an_owner_that_is_killed_in_the_middle_of_a_turn(
        self, fleet: WorkerFleet, owner: Member, other: Member, said: bool
    ) -> None:
        third = await fleet.start("third", [COUNTER])
        await fleet.give_all(owner)
        stream = converse(third, "wait", message_id="m")
        await stream.has("started")
        del fleet.members["owner"]
        await (owner.freeze() if said else owner.kill())
        await fleet.give_all(other, live=[other, third])
        await stream.has("started", 2)
        await owner.stop()
        scripted_actor.OPEN.set()
        end = await stream.end()
        assert stream.kinds == ["accepted", "started", "sealed", "started", "completed"]
        assert stream.events[2].sealed.error.reason == "OWNER_CHANGED"
        places = [(event.epoch, event.sequence) for event in stream.events]
        assert places == [(0, 0), (1, 1), (1, 2), (2, 1), (2, 2)]
        assert end.completed.result.text == "1"

    async def test_a_session_that_moves_to_the_worker_that_was_called_and_back(
        self, fleet: WorkerFleet, owner: Member, other: Member
    ) -> None:
        held = converse(other, "wait")
        await held.has("started")
        stream = converse(other, "second", message_id="m")
        await stream.has("accepted")
        await fleet.give_all(other)
        scripted_actor.OPEN.set()
        assert (await stream.end()).completed.result.text == "2"
        await held.end()
        assert (await send(owner)).result.text == "3"
        await fleet.give_all(owner)
        assert (await send(other)).result.text == "4"

    async def test_a_follower_on_the_owner_goes_on_when_the_session_leaves_it(
        self, fleet: WorkerFleet, owner: Member, other: Member
    ) -> None:
        stream = converse(owner, "wait", message_id="m")
        feed = Stream(owner.agents.Subscribe(pb.SubscribeRequest(session=REF)))
        await stream.has("started")
        await fleet.give_all(other)
        await stream.has("started", 2)
        await feed.has("started")
        scripted_actor.OPEN.set()
        end = await stream.end()
        assert (end.epoch, end.completed.result.text) == (2, "1")
        await feed.has("completed")
        await feed.leave()

    async def test_a_turn_that_goes_on_after_its_shard_was_handed_over_is_followed_to_its_end(
        self, fleet: WorkerFleet, owner: Member, other: Member, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(handover, "LOOK", 0.01)
        third = await fleet.start("third", [COUNTER])
        everybody = list(fleet.members.values())
        await fleet.give_all(owner, live=everybody)
        subscribe = pb.SubscribeRequest(session=REF, message_id="m")
        here, far = converse(owner, "wait", message_id="m"), Stream(third.agents.Subscribe(subscribe))
        await asyncio.gather(here.has("started"), far.has("started"))
        await fleet.place({}, revoked=range(SHARDS), live=everybody)
        async with asyncio.timeout(10):
            while (await owner.worker.report()).shards:  # noqa: ASYNC110 - it is in the code under test
                await asyncio.sleep(0.02)
        await fleet.give_all(other, live=everybody)
        late, following = Stream(other.agents.Subscribe(subscribe)), asyncio.create_task(send(third, "next"))
        # The new owner has what comes next, and has looked at the mark again and again.
        await until(lambda: other.store.calls["put"] and other.store.calls["waiting"] > 3)
        assert not late.events
        scripted_actor.OPEN.set()
        ends = [await stream.end() for stream in (here, far, late)]
        assert (here.kinds, far.kinds) == (["accepted", "started", "completed"], ["started", "completed"])
        assert [(end.completed.result.text, end.completed.stored) for end in ends] == [
            ("1", False),
            ("1", False),
            ("1", True),
        ]
        assert (await following).result.text == "2"

    async def test_the_end_comes_from_the_store_while_the_owner_cannot_be_reached(
        self, fleet: WorkerFleet, owner: Member, other: Member
    ) -> None:
        address, owner.address = owner.address, "127.0.0.1:1"
        await fleet.give_all(owner)
        scripted_actor.OPEN.set()
        assert (await send(other, "wait", message_id="m")).result.text == "1"
        stream = converse(other)
        assert (await stream.end()).completed.result.text == "2"
        assert stream.kinds == ["accepted", "completed"]
        assert (await get(other)).fate == turn_pb2.FATE_DONE
        assert (await session(other)).turns == 2
        with pytest.raises(Unavailable), translated():
            await other.agents.DeleteSession(pb.DeleteSessionRequest(session=REF))
        owner.address = address
        scripted_actor.OPEN.clear()
        stream = converse(other, "wait")
        await stream.has("accepted")
        await fleet.give_all(owner)
        await stream.has("started")
        scripted_actor.OPEN.set()
        assert (await stream.end()).completed.result.text == "3"

    async def test_an_owner_that_takes_connections_and_says_nothing(
        self, fleet: WorkerFleet, owner: Member, other: Member, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(peers, "ATTACH", 0.3)
        monkeypatch.setattr(peers, "ASK", 0.3)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            owner.address = f"127.0.0.1:{silent.getsockname()[1]}"
            await fleet.give_all(owner)
            scripted_actor.OPEN.set()
            assert (await send(other, "wait", message_id="m")).result.text == "1"
            assert (await session(other)).turns == 1
            with pytest.raises(Unavailable), translated():
                await other.agents.DeleteSession(pb.DeleteSessionRequest(session=REF), timeout=10)

    async def test_an_owner_that_is_stalled_is_given_up_when_its_lease_ends(
        self, fleet: WorkerFleet, owner: Member, other: Member
    ) -> None:
        stream = converse(other, "wait", message_id="m")
        await stream.has("started")
        await owner.freeze()
        await fleet.give_all(other, tell=[other], live=[owner, other])
        late = Stream(other.agents.Subscribe(pb.SubscribeRequest(session=REF, message_id="m")))
        await late.has("started")
        await send(other, session=SessionRef(agent=REF.agent, session="another"))
        assert stream.kinds == ["accepted", "started"], "its turn may still come to its end there"
        await fleet.place({}, tell=[other], live=[other])
        await stream.has("started", 2)
        scripted_actor.OPEN.set()
        assert (await stream.end()).completed.result.text == "1"
