"""Messages that are followed on another worker than the one that runs them."""

import asyncio
import functools
from pathlib import Path

import pytest
from support import scripted_actor
from support.certificates import authority
from support.credentials import Tokens
from support.fleets import agent, model
from support.hosting import until
from support.member_calls import REF, Stream, converse, send, session
from support.serving_worker import COUNTER
from support.worker_fleet import Member, WorkerFleet, worker_fleet

from troupe.chassis.access.roles import Role
from troupe.chassis.errors import AlreadyExists
from troupe.chassis.settings import SecretStr
from troupe.dataplane import following
from troupe.llm_sim import process as llm_sim
from troupe.llm_sim.settings import LlmSimSettings
from troupe.v1 import agent_pb2 as pb
from troupe.v1.envelope_pb2 import SessionRef


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

    async def test_it_takes_one_stream_and_no_look_at_the_store(
        self, fleet: WorkerFleet, other: Member, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(following, "PAUSE", (0.001, 0.001))
        monkeypatch.setattr(following, "_Pause", functools.partial(following._Pause, 0.001))
        stream = converse(other, "wait")
        await stream.has("started")
        before = other.store.calls.copy()
        for number in range(5):
            # While these come to their ends, whoever looks at the store for the first one does so many times.
            await converse(other, session=SessionRef(agent="counter", session=f"s{number}")).end()
        assert other.store.calls == before
        assert before["record"] == 0
        scripted_actor.OPEN.set()
        await stream.end()
        assert other.store.calls["record"] == 0

    async def test_tokens_come_as_they_are_made(self, tmp_path: Path) -> None:
        slow = LlmSimSettings.load({"listen": "127.0.0.1:0", "ttft": "constant:0.2", "per_token": "constant:0.05"})
        async with (
            llm_sim.running(slow) as simulator,
            worker_fleet(
                tmp_path, "owner", "other", resources=[agent(), model()], llm=simulator.url, model="sim"
            ) as fleet,
        ):
            stream = converse(fleet.members["other"], "Tell me a story", session=SessionRef(agent="clerk", session="s"))
            end = await stream.end()
        assert stream.kinds[:3] == ["accepted", "started", "token_delta"]
        assert stream.kinds.count("token_delta") > 1
        assert "".join(event.token_delta.text for event in stream.events) == end.completed.result.text
        places = [(event.epoch, event.attempt, event.sequence) for event in stream.events]
        assert places == sorted(places)
        assert not end.completed.stored

    async def test_workers_speak_tls_to_each_other_where_they_have_certificates(self, tmp_path: Path) -> None:
        folder = tmp_path / "tls"
        folder.mkdir()
        made = authority(folder)
        tokens = Tokens(tmp_path / "tokens.toml")
        token = SecretStr(tokens.add("everybody", *Role))
        access = {"tls_cert": made.cert, "tls_key": made.key, "tls_ca": made.ca, "tokens": tokens.path, "token": token}
        async with worker_fleet(tmp_path, "owner", "other", resources=[COUNTER], **access) as fleet:
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
        await send(other, message_id="last")
        # Events of those before may come after their answers.
        await until(lambda: (stream.events[-1].message_id, stream.kinds[-1]) == ("last", "completed"))
        await stream.leave()
