"""ControlTurns, scheduled messages and `on_busy` of a real worker over gRPC."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support import asking_actor
from support.asking_actor import DONE
from support.asking_fleet import Client, asking_fleet

from troupe.chassis.errors import NotFound
from troupe.chassis.rpc_client import translated
from troupe.chassis.wire import duration, seconds, timestamp
from troupe.v1 import agent_pb2 as pb
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import MessageRef, SendRequest
from troupe.v1.envelope_pb2 import Content, SessionRef
from troupe.v1.turn_pb2 import FATE_CANCELLED, FATE_DONE, FATE_PAUSED, FATE_RUNNING, FATE_SCHEDULED, FATE_WAITING

APPLIED, PENDING, STALE = "APPLIED", "PENDING", "STALE"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with asking_fleet(tmp_path) as client:
        yield client


class TestVerbs:
    async def test_a_message_that_waits_is_held_with_all_behind_it_and_goes_on(self, client: Client) -> None:
        await client.send("work", "m1")
        await client.stands("m1", FATE_RUNNING)
        for name in ("m2", "m3"):
            await client.send("hello", name)
            await client.stands(name, FATE_WAITING)
        assert await client.control("PAUSE", "m2", verb_id="v") == [APPLIED]
        assert (await client.status("m2")).fate == FATE_PAUSED
        asking_actor.OPEN.set()
        assert (await client.status("m1", wait=10)).fate == FATE_DONE
        assert (await client.status("m3", wait=0.3)).fate == FATE_WAITING, "it waits behind"
        assert await client.control("RESUME", "m2", lifts="v") == [APPLIED]
        assert [(await client.status(name, wait=10)).fate for name in ("m2", "m3")] == [FATE_DONE] * 2

    async def test_a_turn_that_waits_for_a_promise_is_held_too(self, client: Client) -> None:
        await client.send("ask", "m")
        await client.stands("m", FATE_WAITING)
        assert await client.control("PAUSE", "m") == [APPLIED]
        held = await client.status("m")
        assert (held.fate, list(held.awaits)) == (FATE_PAUSED, ["m/answer"])
        assert await client.control("RESUME", "m") == [APPLIED]
        assert (await client.status("m")).fate == FATE_WAITING
        assert await client.control("RESUME", "m") == ["NOT_FOUND"]

    async def test_each_answer(self, client: Client) -> None:
        await client.send("work", "running")
        await client.stands("running", FATE_RUNNING)
        await client.send("hello", "waiting")
        await client.stands("waiting", FATE_WAITING)
        assert await client.control("PAUSE", "waiting", "unseen", dry_run=True) == [APPLIED, PENDING]
        assert await client.control("RESUME", "waiting", dry_run=True) == ["NOT_FOUND"]
        assert (await client.status("waiting")).fate == FATE_WAITING, "a dry run"
        assert await client.control("KILL", "waiting", verb_id="k") == [APPLIED]
        assert (await client.status("waiting")).fate == FATE_CANCELLED
        assert await client.control("KILL", "waiting", verb_id="k") == [APPLIED], "the same again"
        assert await client.control("KILL", "waiting", verb_id="l") == ["TOO_LATE"]
        assert await client.control("RESUME", "never", lifts="v") == ["NOT_FOUND"]
        assert await client.control("PAUSE", "never", verb_id="v") == [STALE], "it was lifted before it came"

    async def test_a_verb_for_another_attempt_is_stale(self, client: Client) -> None:
        await client.send("ask", "m")
        await client.stands("m", FATE_WAITING)
        ref = MessageRef(session=SessionRef(agent="asker", session="s"), message_id="m", attempt=7)
        assert await client.controlled("CANCEL", messages=[ref]) == [("asker/s/m", STALE)]
        assert (await client.status("m")).fate == FATE_WAITING

    async def test_a_paused_running_turn_does_not_end_before_resume(self, client: Client) -> None:
        await client.send("work", "m")
        await client.stands("m", FATE_RUNNING)
        (answer,) = await client.control("PAUSE", "m", verb_id="p")
        assert answer in (APPLIED, PENDING)
        assert (await client.status("m")).fate == FATE_PAUSED
        asking_actor.OPEN.set()
        assert (await client.status("m", wait=0.5)).fate == FATE_PAUSED
        assert await client.control("RESUME", "m", lifts="p") == [APPLIED]
        done = await client.status("m", wait=10)
        assert (done.fate, done.result.text, done.failures) == (FATE_DONE, "worked", 0)

    @pytest.mark.parametrize(("verb", "left"), [("CANCEL", ["left 7", "left 6"]), ("KILL", [])])
    async def test_a_cancel_takes_back_what_was_done_and_a_kill_does_not(
        self, client: Client, verb: str, left: list[str]
    ) -> None:
        await client.send("take 6 7", "m")
        await client.stands("m", FATE_WAITING)
        assert await client.control(verb, "m") == [APPLIED]
        assert (await client.status("m", wait=10)).fate == FATE_CANCELLED
        assert ["booked 6", "booked 7", *left] == DONE

    async def test_each_message_that_is_named_gets_an_answer_in_order(self, client: Client) -> None:
        names = [f"m{number}" for number in range(200)]
        answers = await client.controlled(
            "CANCEL",
            messages=[MessageRef(session=SessionRef(agent="asker", session="s"), message_id=name) for name in names],
        )
        assert [name.rpartition("/")[2] for name, _ in answers] == names


class TestSelectors:
    async def setup(self, client: Client) -> None:
        """Turns that run, wait, are paused and scheduled, in two sessions of one agent and one of another."""
        await client.send("work", "runs", attributes={"team": "shop", "tier": "gold"})
        await client.stands("runs", FATE_RUNNING)
        await client.send("hello", "waits", attributes={"team": "desk"})
        await client.stands("waits", FATE_WAITING)
        await client.send("ask", "asks", "t", attributes={"team": "shop"})
        await client.stands("asks", FATE_WAITING, "t")
        await client.send("later", "later", "t", deliver_after=duration(3600), attributes={"team": "shop"})
        await client.stands("later", FATE_SCHEDULED, "t")
        await client.send("work", "else", "s", "other")
        await client.send("hello", "held")
        await client.stands("held", FATE_WAITING)
        assert await client.control("PAUSE", "held") == [APPLIED]

    async def test_what_is_selected(self, client: Client) -> None:
        await self.setup(client)
        everything = ["asker/s/held", "asker/s/runs", "asker/s/waits", "asker/t/asks", "asker/t/later", "other/s/else"]
        assert await client.selected() == everything
        assert await client.selected(session=SessionRef(agent="asker")) == everything[:-1]
        assert (
            await client.selected(session=SessionRef(namespace="default", agent="asker", session="s")) == everything[:3]
        )
        assert await client.selected(session=SessionRef(session="s")) == [*everything[:3], everything[-1]]
        assert await client.selected(session=SessionRef(namespace="other")) == []
        for fate, names in (
            (FATE_RUNNING, ["asker/s/runs", "other/s/else"]),
            (FATE_WAITING, ["asker/s/waits", "asker/t/asks"]),
            (FATE_PAUSED, ["asker/s/held"]),
            (FATE_SCHEDULED, ["asker/t/later"]),
        ):
            assert await client.selected(fates=[fate]) == names
        assert await client.selected(having={"team": "shop"}) == ["asker/s/runs", "asker/t/asks", "asker/t/later"]
        assert await client.selected(having={"team": "shop", "tier": "gold"}) == ["asker/s/runs"]
        assert await client.selected(having={"team": "shop"}, fates=[FATE_SCHEDULED, FATE_PAUSED]) == ["asker/t/later"]

    async def test_a_limit(self, client: Client) -> None:
        await self.setup(client)
        assert len(await client.selected(limit=2)) == 2

    async def test_a_verb_is_for_all_that_is_selected(self, client: Client) -> None:
        await self.setup(client)
        stopped = await client.selected("CANCEL", having={"team": "shop"}, dry_run=False)
        assert stopped == ["asker/s/runs", "asker/t/asks", "asker/t/later"]
        for name, session in (("runs", "s"), ("asks", "t"), ("later", "t")):
            assert (await client.status(name, session, wait=10)).fate == FATE_CANCELLED, name
        assert (await client.status("waits", wait=10)).fate == FATE_DONE
        assert await client.selected() == ["asker/s/held", "other/s/else"]
        assert await client.selected("RESUME", fates=[FATE_PAUSED], dry_run=False) == ["asker/s/held"]
        assert (await client.status("held", wait=10)).fate == FATE_DONE

    async def test_many_in_many_sessions(self, client: Client) -> None:
        names = [(f"s{number % 7}", f"m{number}") for number in range(300)]
        for session, name in names:
            await client.send("hello", name, session, deliver_after=duration(3600))
        async with asyncio.timeout(10):
            while len(found := await client.selected(fates=[FATE_SCHEDULED])) < len(names):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert found == sorted(f"asker/{session}/{name}" for session, name in names)
        assert len(await client.selected("KILL", dry_run=False, limit=100)) == 100
        assert len(await client.selected("KILL", dry_run=False)) == 200
        assert await client.selected() == []


class TestLater:
    async def test_a_message_takes_its_place_when_it_is_due_and_not_before(self, client: Client) -> None:
        await client.send("later", "m", deliver_after=duration(2.0), wait=duration(0.1))
        scheduled = await client.status("m")
        assert scheduled.fate == FATE_SCHEDULED
        due = seconds(scheduled.due)
        assert (await client.send("now", "n", wait=duration(10))).fate == FATE_DONE, "nothing waits for it"
        done = await client.status("m", wait=10)
        assert (done.fate, done.result.text) == (FATE_DONE, "heard later")
        assert seconds(done.settled_at) >= due
        assert seconds(done.ledger.wall) <= seconds(done.settled_at) - due + 0.5, "its time counts from when it was due"

    async def test_send_waits_for_a_scheduled_message(self, client: Client) -> None:
        done = await client.send("later", "m", deliver_after=duration(0.3), wait=duration(10))
        assert done.fate == FATE_DONE
        stands = await client.send("later", "n", deliver_after=duration(3600), wait=duration(0.1))
        assert stands.fate in (FATE_SCHEDULED, turn_pb2.FATE_UNSEEN)

    async def test_a_time_that_is_over_means_at_once(self, client: Client) -> None:
        for when in ({"deliver_at": timestamp(1.0)}, {"deliver_after": duration(0)}):
            assert (await client.send("x", f"m{list(when)}", wait=duration(10), **when)).fate == FATE_DONE

    async def test_sent_again_it_runs_once(self, client: Client) -> None:
        for _ in range(3):
            await client.send("later", "m", deliver_after=duration(2.0))
        await client.stands("m", FATE_SCHEDULED)
        assert (await client.send("later", "m", wait=duration(10))).result.text == "heard later"
        session = SessionRef(agent="asker", session="s")
        answer = await client.agents.GetSession(pb.GetSessionRequest(session=session))
        assert (answer.session.turns, answer.session.scheduled, answer.session.waiting) == (1, 0, 0)

    async def test_a_scheduled_message_is_cancelled_where_it_is(self, client: Client) -> None:
        await client.send("later", "m", deliver_after=duration(3600))
        await client.stands("m", FATE_SCHEDULED)
        waits = asyncio.create_task(client.status("m", wait=10))
        session = SessionRef(agent="asker", session="s")
        shown = (await client.agents.GetSession(pb.GetSessionRequest(session=session))).session
        assert (shown.scheduled, shown.waiting, shown.state) == (1, 0, pb.SESSION_STATE_IDLE)
        assert await client.control("CANCEL", "m") == [APPLIED]
        assert (await waits).fate == FATE_CANCELLED
        with pytest.raises(NotFound), translated():
            await client.agents.GetSession(pb.GetSessionRequest(session=session))

    async def test_a_session_is_deleted_with_its_schedule_and_its_promises(self, client: Client) -> None:
        await client.send("ask", "asks")
        await client.send("hello", "waits")
        await client.send("later", "later", deliver_after=duration(3600))
        await client.stands("later", FATE_SCHEDULED)
        await client.stands("waits", FATE_WAITING)
        session = SessionRef(agent="asker", session="s")
        waits = asyncio.create_task(client.status("later", wait=10))
        deleted = await client.agents.DeleteSession(pb.DeleteSessionRequest(session=session))
        assert deleted.cancelled == 3
        assert (await waits).fate == FATE_CANCELLED
        assert [(await client.status(name)).fate for name in ("asks", "waits")] == [FATE_CANCELLED] * 2
        assert await client.selected() == []
        with pytest.raises(NotFound), translated():
            await client.agents.GetSession(pb.GetSessionRequest(session=session))

    async def test_deleting_a_session_takes_back_what_a_turn_that_waits_has_done(self, client: Client) -> None:
        await client.send("take 6", "m")
        await client.send("take 7", "n")
        await client.stands("m", FATE_WAITING)
        await client.stands("n", FATE_WAITING)
        session = SessionRef(agent="asker", session="s")
        deleted = await client.agents.DeleteSession(pb.DeleteSessionRequest(session=session))
        assert (deleted.cancelled, DONE) == (2, ["booked 6", "left 6"])
        assert [(await client.status(name)).fate for name in ("m", "n")] == [FATE_CANCELLED] * 2

    async def test_one_that_is_held_is_not_forgotten(self, client: Client) -> None:
        await client.send("later", "m", deliver_after=duration(2.0))
        await client.stands("m", FATE_SCHEDULED)
        assert await client.control("PAUSE", "m") == [APPLIED]
        held = await client.status("m")
        assert (held.fate, held.HasField("due")) == (FATE_PAUSED, True)
        assert (
            await client.selected(fates=[FATE_PAUSED]) == await client.selected(fates=[FATE_SCHEDULED]) == ["asker/s/m"]
        )
        assert (await client.status("m", wait=2.2)).fate == FATE_PAUSED, "it is due, and held"
        assert await client.selected("RESUME", fates=[FATE_PAUSED], dry_run=False) == ["asker/s/m"]
        assert (await client.status("m", wait=10)).fate == FATE_DONE


class TestOnBusy:
    async def test_a_message_that_refuses_to_wait_is_rejected_as_a_status(self, client: Client) -> None:
        idle = await client.send("hello", "first", on_busy=pb.ON_BUSY_REJECT, wait=duration(10))
        assert idle.fate == FATE_DONE
        await client.send("work", "busy")
        await client.stands("busy", FATE_RUNNING)
        rejected = await client.send("hello", "m", on_busy=pb.ON_BUSY_REJECT, wait=duration(10))
        assert rejected.fate == turn_pb2.FATE_REJECTED
        assert rejected.error.reason
        asking_actor.OPEN.set()
        await client.status("busy", wait=10)
        again = await client.send("hello", "m", on_busy=pb.ON_BUSY_REJECT, wait=duration(10))
        assert again.fate == turn_pb2.FATE_REJECTED, "the same id has the same fate"

    async def test_what_waits_makes_a_session_busy(self, client: Client) -> None:
        await client.send("ask", "asks")
        await client.stands("asks", FATE_WAITING)
        rejected = await client.send("hello", "m", on_busy=pb.ON_BUSY_REJECT, wait=duration(10))
        assert rejected.fate == turn_pb2.FATE_REJECTED

    @pytest.mark.parametrize(("text", "fate"), [("work", FATE_RUNNING), ("ask", FATE_WAITING)])
    async def test_a_scheduled_one_is_rejected_when_it_is_due(self, client: Client, text: str, fate: int) -> None:
        await client.send(text, "busy")
        await client.stands("busy", fate)
        await client.send("hello", "m", on_busy=pb.ON_BUSY_REJECT, deliver_after=duration(2))
        await client.stands("m", FATE_SCHEDULED)
        assert (await client.status("m", wait=10)).fate == turn_pb2.FATE_REJECTED

    async def test_a_conversation_hears_of_it(self, client: Client) -> None:
        await client.send("work", "busy")
        await client.stands("busy", FATE_RUNNING)
        request = SendRequest(
            session=SessionRef(agent="asker", session="s"), content=Content(text="x"), on_busy=pb.ON_BUSY_REJECT
        )
        async with asyncio.timeout(10):
            events = [one.event async for one in client.agents.Converse(pb.ConverseRequest(message=request))]
        assert [event.WhichOneof("kind") for event in events] == ["accepted", "failed"]
        assert events[-1].failed.fate == turn_pb2.FATE_REJECTED
