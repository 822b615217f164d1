"""Any worker may be called for any session: two of them, and the test in the part of their control plane."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support import scripted_actor
from support.certificates import authority
from support.fleets import agent, model
from support.hosting import until
from support.serving_worker import COUNTER, SHARDS
from support.worker_fleet import Member, WorkerFleet, worker_fleet

from troupe.chassis.errors import Aborted, AlreadyExists, NotFound, TroupeError, Unavailable
from troupe.chassis.rpc_client import translated
from troupe.chassis.wire import duration
from troupe.dataplane import peers
from troupe.llm_sim import process as llm_sim
from troupe.llm_sim.settings import LlmSimSettings
from troupe.v1 import agent_pb2 as pb
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import MessageRef, SendRequest
from troupe.v1.envelope_pb2 import Content, SessionRef
from troupe.v1.turn_pb2 import Event

RELAYED = (peers.RELAYED,)
REF = SessionRef(agent="counter", session="s")


@pytest.fixture
async def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WorkerFleet]:
    """`owner` has every shard, `other` none."""
    monkeypatch.setattr(scripted_actor, "OPEN", asyncio.Event())
    async with worker_fleet(tmp_path, "owner", "other", resources=[COUNTER]) as opened:
        yield opened


@pytest.fixture
def owner(fleet: WorkerFleet) -> Member:
    return fleet.members["owner"]


@pytest.fixture
def other(fleet: WorkerFleet) -> Member:
    return fleet.members["other"]


def message(text: str = "hello", **parts: Any) -> SendRequest:
    return SendRequest(session=parts.pop("session", REF), content=Content(text=text), **parts)


class Stream:
    """A call that streams events, read beside the test."""

    def __init__(self, call: Any) -> None:
        self.events: list[Event] = []
        self.error: TroupeError | None = None
        self._call = call
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            with translated():
                async for response in self._call:
                    self.events.append(response.event)
        except TroupeError as error:
            self.error = error

    @property
    def kinds(self) -> list[str]:
        return [str(event.WhichOneof("kind")) for event in self.events]

    async def has(self, kind: str, times: int = 1) -> None:
        await until(lambda: self.kinds.count(kind) >= times)

    async def end(self) -> Event:
        async with asyncio.timeout(15):
            await self._task
        assert self.error is None, str(self.error)
        return self.events[-1]

    async def leave(self) -> None:
        self._call.cancel()
        await asyncio.wait([self._task])


def converse(member: Member, text: str = "hello", **parts: Any) -> Stream:
    return Stream(member.agents.Converse(pb.ConverseRequest(message=message(text, **parts))))


async def send(member: Member, text: str = "hello", wait: float = 5.0, **parts: Any) -> pb.MessageStatus:
    with translated():
        return (await member.agents.Send(message(text, wait=duration(wait), **parts), timeout=15)).status


async def get(member: Member, message_id: str = "m", wait: float = 0.0) -> pb.MessageStatus:
    request = pb.GetMessageRequest(session=REF, message_id=message_id, wait=duration(wait))
    return (await member.agents.GetMessage(request, timeout=15)).status


async def session(member: Member) -> pb.Session:
    with translated():
        return (await member.agents.GetSession(pb.GetSessionRequest(session=REF))).session


class TestFollowing:
    async def test_a_conversation_has_all_its_events(self, owner: Member, other: Member) -> None:
        stream = converse(other, "wait")
        await stream.has("started")
        scripted_actor.OPEN.set()
        end = await stream.end()
        assert stream.kinds == ["accepted", "started", "completed"]
        assert (end.completed.result.text, end.completed.stored) == ("1", False)
        assert end.epoch == 1
        assert stream.events[1].started.worker_id == "owner"

    async def test_it_takes_one_stream_and_no_look_at_the_store(self, fleet: WorkerFleet, other: Member) -> None:
        stream = converse(other, "wait")
        await stream.has("started")
        before = other.store.calls.copy()
        await asyncio.sleep(0.5)
        assert other.store.calls == before
        assert before["record"] == 0
        scripted_actor.OPEN.set()
        await stream.end()
        assert other.store.calls["record"] == 0

    async def test_tokens_come_as_they_are_made(self, tmp_path: Path) -> None:
        slow = LlmSimSettings.load({"listen": "127.0.0.1:0", "ttft": "constant:0.2", "per_token": "constant:0.02"})
        async with (
            llm_sim.running(slow) as simulator,
            worker_fleet(
                tmp_path, "owner", "other", resources=[agent(), model()], llm=simulator.url, model="sim"
            ) as fleet,
        ):
            stream = converse(fleet.members["other"], "Tell me a story", session=SessionRef(agent="clerk", session="s"))
            end = await stream.end()
        assert stream.kinds[:3] == ["accepted", "started", "token_delta"]
        assert stream.kinds.count("token_delta") > 2
        assert "".join(event.token_delta.text for event in stream.events) == end.completed.result.text
        places = [(event.epoch, event.attempt, event.sequence) for event in stream.events]
        assert places == sorted(places)
        assert not end.completed.stored

    async def test_workers_speak_tls_to_each_other_where_they_have_certificates(self, tmp_path: Path) -> None:
        folder = tmp_path / "tls"
        folder.mkdir()
        made = authority(folder)
        tls = {"tls_cert": made.cert, "tls_key": made.key, "tls_ca": made.ca}
        async with worker_fleet(tmp_path, "owner", "other", resources=[COUNTER], **tls) as fleet:
            stream = converse(fleet.members["other"])
            assert (await stream.end()).completed.result.text == "1"
            assert (await session(fleet.members["other"])).worker_id == "owner"
            assert fleet.members["other"].store.calls["summary"] == 0, "the owner was asked"

    async def test_send_waits_for_the_fate_and_gets_the_stored_one_again(self, owner: Member, other: Member) -> None:
        assert (await send(other, message_id="m")).result.text == "1"
        assert (await send(other, message_id="m")).result.text == "1"
        assert (await send(owner, message_id="m")).result.text == "1"
        assert (await send(other, "wrong")).error.reason == "WRONG"

    async def test_a_copy_with_another_payload_is_told_so(self, owner: Member, other: Member) -> None:
        first = converse(owner, "wait", message_id="m")
        await first.has("started")
        same = asyncio.create_task(send(other, "wait", message_id="m"))
        foreign = [asyncio.create_task(send(other, f"else {number}", message_id="m")) for number in range(2)]
        await until(lambda: other.broker.calls["publish"] == 1 + len(foreign))
        scripted_actor.OPEN.set()
        for task in foreign:
            with pytest.raises(AlreadyExists) as refused:
                await task
            assert refused.value.metadata["source"] == "turn"
        assert (await same).result.text == (await first.end()).completed.result.text == "1"
        with pytest.raises(AlreadyExists):
            await send(other, "else", message_id="m")
        last = await converse(other, "else", message_id="m").end()
        assert last.failed.error.reason == "MESSAGE_ID_USED"

    async def test_one_message_is_subscribed_to_from_where_the_caller_left_off(
        self, owner: Member, other: Member
    ) -> None:
        first = converse(owner, "wait", message_id="m")
        await first.has("started")
        at = first.events[-1]
        after = pb.EventPosition(epoch=at.epoch, attempt=at.attempt, sequence=at.sequence)
        whole = Stream(other.agents.Subscribe(pb.SubscribeRequest(session=REF, message_id="m")))
        rest = Stream(other.agents.Subscribe(pb.SubscribeRequest(session=REF, message_id="m", after=after)))
        await whole.has("started")
        scripted_actor.OPEN.set()
        await asyncio.gather(whole.end(), rest.end())
        assert (whole.kinds, rest.kinds) == (["started", "completed"], ["completed"])
        settled = Stream(other.agents.Subscribe(pb.SubscribeRequest(session=REF, message_id="m")))
        assert (await settled.end()).completed.stored

    async def test_a_session_is_subscribed_to(self, owner: Member, other: Member) -> None:
        stream = Stream(other.agents.Subscribe(pb.SubscribeRequest(session=REF)))
        async with asyncio.timeout(10):
            while not stream.events:
                await send(owner)
        count = stream.kinds.count("completed")
        await send(other, message_id="last")
        await stream.has("completed", count + 1)
        assert stream.events[-1].message_id == "last"
        await stream.leave()


class TestAsking:
    async def test_where_a_message_stands(self, owner: Member, other: Member) -> None:
        running = await send(other, "wait", wait=0.3, message_id="m")
        waiting = await send(other, "next", wait=0.3, message_id="n")
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
        async with asyncio.timeout(5):
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
        self, fleet: WorkerFleet, owner: Member, other: Member
    ) -> None:
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
        await asyncio.sleep(0.3)
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
                await other.agents.DeleteSession(pb.DeleteSessionRequest(session=REF), timeout=1)

    async def test_an_owner_that_is_stalled_is_given_up_when_its_lease_ends(
        self, fleet: WorkerFleet, owner: Member, other: Member
    ) -> None:
        stream = converse(other, "wait", message_id="m")
        await stream.has("started")
        await owner.freeze()
        await fleet.give_all(other, tell=[other], live=[owner, other])
        await asyncio.sleep(0.3)
        assert stream.kinds == ["accepted", "started"], "its turn may still come to its end there"
        await fleet.place({}, tell=[other], live=[other])
        await stream.has("started", 2)
        scripted_actor.OPEN.set()
        assert (await stream.end()).completed.result.text == "1"


class TestRelayedOnce:
    async def test_what_was_relayed_is_not_relayed_again(
        self, fleet: WorkerFleet, owner: Member, other: Member
    ) -> None:
        """Each takes the other for the owner."""
        await send(owner)
        await fleet.give_all(other, tell=[owner])
        subscribe = pb.SubscribeRequest(session=REF, message_id="m")
        for request in (subscribe, pb.SubscribeRequest(session=REF)):
            with pytest.raises(Aborted) as refused, translated():
                async for _ in owner.agents.Subscribe(request, metadata=RELAYED, timeout=5):
                    pass
            assert refused.value.reason == "NOT_OWNER"
        with pytest.raises(Unavailable), translated():
            await owner.agents.DeleteSession(pb.DeleteSessionRequest(session=REF), metadata=RELAYED, timeout=5)
        answer = await owner.agents.GetSession(pb.GetSessionRequest(session=REF), metadata=RELAYED, timeout=5)
        assert answer.session.turns == 1
        asked = pb.GetMessageRequest(session=REF, message_id="m")
        told = await owner.agents.GetMessage(asked, metadata=RELAYED, timeout=5)
        assert told.status.fate == turn_pb2.FATE_UNSEEN

    async def test_two_that_take_each_other_for_the_owner_do_not_call_for_ever(
        self, fleet: WorkerFleet, owner: Member, other: Member
    ) -> None:
        await send(owner)
        await fleet.give_all(other, tell=[owner])
        stream = converse(owner, message_id="m")
        await stream.has("accepted")
        assert (await session(owner)).turns == 1
        await fleet.place({}, tell=[other])
        assert (await stream.end()).completed.result.text == "2"
