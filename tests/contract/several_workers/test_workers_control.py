"""Verbs, promises and schedules of sessions that are another worker's than the one that is called."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support import asking_actor
from support.asking_actor import TOKENS
from support.fleets import actor
from support.hosting import until
from support.member_calls import RELAYED, Stream, converse, send
from support.worker_fleet import Member, WorkerFleet, worker_fleet

from troupe.broker.addressing import SessionKey
from troupe.chassis.errors import Unavailable
from troupe.chassis.rpc_client import translated
from troupe.chassis.wire import duration
from troupe.v1 import agent_pb2 as pb
from troupe.v1 import promise_pb2 as promises
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import MessageRef, VerbAnswer
from troupe.v1.envelope_pb2 import Content, SessionRef
from troupe.v1.resource_pb2 import ActorSpec

ASKER = actor("asker", ActorSpec(entry_point="support.asking_actor:Asker"))
REF = SessionRef(agent="asker", session="s")


@pytest.fixture
async def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WorkerFleet]:
    """`owner` has every shard, `other` none."""
    monkeypatch.setattr(asking_actor, "OPEN", asyncio.Event())
    TOKENS.clear()
    async with worker_fleet(tmp_path, "owner", "other", resources=[ASKER]) as opened:
        yield opened


async def fate(member: Member, message_id: str = "m", wait: float = 0.0) -> pb.MessageStatus:
    request = pb.GetMessageRequest(session=REF, message_id=message_id, wait=duration(wait))
    return (await member.agents.GetMessage(request, timeout=wait + 5)).status


async def stands(member: Member, wanted: int, message_id: str = "m") -> None:
    async with asyncio.timeout(10):
        while (await fate(member, message_id)).fate != wanted:  # noqa: ASYNC110 - it is in the code under test
            await asyncio.sleep(0.01)


async def control(member: Member, verb: str, *message_ids: str, **parts: Any) -> list[str]:
    refs = [MessageRef(session=REF, message_id=one) for one in message_ids]
    request = pb.ControlTurnsRequest(verb=pb.Verb.Value(f"VERB_{verb}"), messages=refs, **parts)
    with translated():
        return [
            f"{one.message.message_id} {VerbAnswer.Name(one.answer).removeprefix('VERB_ANSWER_')}"
            async for one in member.agents.ControlTurns(request, timeout=10)
        ]


async def resolve(member: Member, value: str) -> "promises.SettlementAnswer.ValueType":
    request = promises.ResolveRequest(token=TOKENS[-1], value=Content(text=value))
    return (await member.worker.promises.Resolve(request)).answer


class TestNudges:
    """The owner's sweep comes every 10 s: what happens sooner was told."""

    async def test_a_promise_that_is_settled_elsewhere(self, owner: Member, other: Member) -> None:
        await send(other, "ask", 0.0, session=REF, message_id="m")
        await stands(other, turn_pb2.FATE_WAITING)
        assert await resolve(other, "yes") == promises.SETTLEMENT_ANSWER_APPLIED
        done = await fate(other, wait=5)
        assert (done.fate, done.result.text) == (turn_pb2.FATE_DONE, "yes")

    async def test_a_conversation_goes_on_after_its_turn_waited(self, owner: Member, other: Member) -> None:
        stream = converse(other, "ask", session=REF)
        await stream.has("suspended")
        (awaited,) = stream.events[-1].suspended.promises
        assert awaited.name == "answer"
        await resolve(other, "yes")
        assert (await stream.end()).completed.result.text == "yes"
        assert stream.kinds[-3:] == ["suspended", "started", "completed"]
        assert stream.events[-2].started.continues

    async def test_a_pause_and_its_resume(self, owner: Member, other: Member) -> None:
        await send(other, "work", 0.0, session=REF, message_id="m")
        await stands(other, turn_pb2.FATE_RUNNING)
        await send(other, "hello", 0.0, session=REF, message_id="n")
        await stands(other, turn_pb2.FATE_WAITING, "n")
        assert await control(other, "PAUSE", "n", verb_id="v") == ["n APPLIED"]
        asking_actor.OPEN.set()
        assert (await fate(owner, wait=5)).fate == turn_pb2.FATE_DONE
        assert (await fate(owner, "n", wait=0.3)).fate == turn_pb2.FATE_PAUSED
        assert await control(other, "RESUME", "n", lifts="v") == ["n APPLIED"]
        assert (await fate(owner, "n", wait=5)).fate == turn_pb2.FATE_DONE

    @pytest.mark.parametrize("verb", ["CANCEL", "KILL"])
    async def test_a_turn_that_waits_for_a_promise_is_stopped(self, owner: Member, other: Member, verb: str) -> None:
        stream = converse(owner, "ask", session=REF, message_id="m")
        await stream.has("suspended")
        assert await control(other, verb, "m") == ["m APPLIED"]
        assert (await stream.end()).failed.fate == turn_pb2.FATE_CANCELLED

    async def test_a_turn_that_is_restarted_goes_on_as_another_message(self, owner: Member, other: Member) -> None:
        stream = converse(owner, "ask", session=REF, message_id="m")
        await stream.has("suspended")
        assert await control(other, "RESTART", "m", from_step=0, verb_id="v") == ["m APPLIED"]
        assert (await stream.end()).failed.error.reason == "RESTARTED"
        new = (await fate(other)).restarted_as
        async with asyncio.timeout(10):
            while not (await fate(other, new)).awaits:  # noqa: ASYNC110 - it is in the code under test
                await asyncio.sleep(0.01)
        await resolve(other, "yes")
        assert (await fate(other, new, wait=5)).result.text == "yes"

    async def test_what_was_recorded_is_told_where_the_verb_failed_for_another(
        self, owner: Member, other: Member
    ) -> None:
        stream = converse(owner, "ask", session=REF, message_id="m")
        await stream.has("suspended")

        async def fails(_: SessionKey, message_id: str) -> None:
            if message_id == "n":
                raise Unavailable("STORE_AWAY", "the store is away")

        other.store.before["resting"] = fails
        refs = [MessageRef(session=REF, message_id=one) for one in ("m", "n", "o")]
        request = pb.ControlTurnsRequest(verb=pb.VERB_RESTART, messages=refs, from_step=0)
        answers = list[str]()
        with pytest.raises(Unavailable, match="the store is away"), translated():
            async for one in other.agents.ControlTurns(request, timeout=10):
                answers.append(one.message.message_id)
        assert answers == ["m"]
        async with asyncio.timeout(5):
            assert (await stream.end()).failed.error.reason == "RESTARTED"

    async def test_a_scheduled_message_that_is_cancelled_ends_for_all_who_wait(
        self, owner: Member, other: Member
    ) -> None:
        await send(other, "later", 0.0, session=REF, message_id="m", deliver_after=duration(3600))
        await stands(owner, turn_pb2.FATE_SCHEDULED)
        before = [member.store.calls["record"] for member in (owner, other)]
        waiting = [asyncio.create_task(fate(member, wait=5)) for member in (owner, other)]
        # Each follows the message before it looks for its record.
        await until(
            lambda: all(
                member.store.calls["record"] > looked for member, looked in zip((owner, other), before, strict=True)
            )
        )
        assert await control(other, "CANCEL", "m") == ["m APPLIED"]
        assert [(await one).fate for one in waiting] == [turn_pb2.FATE_CANCELLED] * 2

    async def test_a_scheduled_message_is_waited_for_anywhere(self, owner: Member, other: Member) -> None:
        sent = await send(other, "later", 5.0, session=REF, message_id="m", deliver_after=duration(0.3))
        assert (sent.fate, sent.result.text) == (turn_pb2.FATE_DONE, "heard later")

    async def test_a_rejection_reaches_who_asked_for_it(self, owner: Member, other: Member) -> None:
        await send(other, "work", 0.0, session=REF, message_id="m")
        await stands(other, turn_pb2.FATE_RUNNING)
        rejected = await send(other, "x", 5.0, session=REF, on_busy=pb.ON_BUSY_REJECT)
        assert rejected.fate == turn_pb2.FATE_REJECTED
        later = await send(
            other, "x", 5.0, session=REF, on_busy=pb.ON_BUSY_REJECT, deliver_after=duration(0.2), message_id="later"
        )
        assert later.fate == turn_pb2.FATE_REJECTED


class TestSelectors:
    async def selected(self, member: Member, verb: str = "CANCEL", **parts: Any) -> list[str]:
        request = {"dry_run": True, "selector": pb.TurnSelector(), **parts}
        return sorted(one.partition(" ")[0] for one in await control(member, verb, **request))

    async def test_turns_on_the_fast_path_are_known_to_their_owner(
        self, fleet: WorkerFleet, owner: Member, other: Member
    ) -> None:
        await send(other, "work", 0.0, session=REF, message_id="runs")
        await stands(other, turn_pb2.FATE_RUNNING, "runs")
        await send(other, "later", 0.0, session=REF, message_id="later", deliver_after=duration(3600))
        await stands(other, turn_pb2.FATE_SCHEDULED, "later")
        assert await self.selected(other) == await self.selected(owner) == ["later", "runs"]
        running = pb.TurnSelector(fates=[turn_pb2.FATE_RUNNING])
        assert await self.selected(other, selector=running) == ["runs"]
        assert await self.selected(other, "CANCEL", dry_run=False) == ["later", "runs"]
        for name in ("later", "runs"):
            assert (await fate(other, name, wait=5)).fate == turn_pb2.FATE_CANCELLED

    async def test_shards_of_several_workers_and_of_none(
        self, fleet: WorkerFleet, owner: Member, other: Member
    ) -> None:
        names = []
        for number in range(24):
            session = SessionRef(agent="asker", session=f"s{number}")
            names.append(f"m{number}")
            await send(other, "x", 0.0, session=session, message_id=names[-1], deliver_after=duration(3600))
        async with asyncio.timeout(10):
            while len(await self.selected(other)) < len(names):  # noqa: ASYNC110 - it is in the code under test
                await asyncio.sleep(0.01)
        await fleet.place({0: owner, 1: other})
        for member in (owner, other):
            assert await self.selected(member) == sorted(names)
        await fleet.place({0: owner, 1: other}, tell=[other])
        await owner.kill()
        del fleet.members["owner"]
        assert await self.selected(other) == sorted(names), "the store knows what the owner does not say"

    async def test_what_a_worker_asks_another_is_not_asked_of_a_third(self, owner: Member, other: Member) -> None:
        await send(other, "x", 0.0, session=REF, message_id="m", deliver_after=duration(3600))
        await stands(owner, turn_pb2.FATE_SCHEDULED)
        request = pb.ControlTurnsRequest(verb=pb.VERB_CANCEL, dry_run=True, selector=pb.TurnSelector(), shards=range(4))
        found = [
            one.message.message_id async for one in other.agents.ControlTurns(request, metadata=RELAYED, timeout=5)
        ]
        assert found == ["m"], "from the store"
        assert owner.store.calls["messages"] == 0

    async def test_a_session_that_moves_is_subscribed_to_without_a_seal_while_its_turn_waits(
        self, fleet: WorkerFleet, owner: Member, other: Member
    ) -> None:
        """Given a turn that waits, when its session goes to another worker and the promise is settled, then what it
        showed stands."""
        stream = converse(other, "ask", session=REF, message_id="m")
        await stream.has("suspended")
        await fleet.give_all(other)
        await resolve(owner, "yes")
        assert (await stream.end()).completed.result.text == "yes"
        assert "sealed" not in stream.kinds
        late = Stream(owner.agents.Subscribe(pb.SubscribeRequest(session=REF, message_id="m")))
        assert (await late.end()).completed.stored
