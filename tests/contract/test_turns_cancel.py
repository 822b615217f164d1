"""CANCEL stops what runs, settles what waits, binds what has not come, and is too late for what is settled."""

import asyncio
from contextlib import aclosing

import pytest
from support.brokers import letters
from support.hosting import SOON, Backends, key, until
from support.scripted_behaviour import Scripted

from troupe.broker.retry import RetryPolicy
from troupe.chassis.errors import NotFound, Unavailable
from troupe.dataplane.actors import host
from troupe.v1 import turn_pb2


async def test_a_running_turn_is_stopped_at_once(backends: Backends) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.worker(script) as worker, worker.conversation("slow", message_id="m") as listener:
        await slow.entered.wait()
        assert await worker.cancel("m") in ("APPLIED", "PENDING")
        async with asyncio.timeout(SOON):
            await slow.left.wait()
        end = await listener.end()
        assert end.failed.fate == turn_pb2.FATE_CANCELLED
        status = await worker.end_of("m")
        assert (status.fate, status.attempts) == (turn_pb2.FATE_CANCELLED, 1)
        assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE
        assert await worker.state() == "next;"
        assert await letters(worker.real_broker) == []


async def test_a_running_turn_that_nobody_told_is_stopped_by_the_sweep(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "SWEEP", 0.05)
    script = Scripted()
    slow = script.gate("slow")
    async with backends.worker(script) as worker:
        await worker.send("slow", message_id="m")
        await slow.entered.wait()
        await worker.control("CANCEL", "m", tell=False)
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_CANCELLED


async def test_no_further_step_starts_after_it(backends: Backends) -> None:
    script = Scripted()
    script.does["steps"] = script.steps
    async with backends.worker(script) as worker:

        async def cancel_first(*_: object) -> None:
            if worker.store_line.calls["journal"] == 3:
                await worker.control("CANCEL", "m", tell=False)

        worker.store_line.before["journal"] = cancel_first
        assert (await worker.ask("steps", message_id="m")).fate == turn_pb2.FATE_CANCELLED
        assert script.effects == {"m one": 1}


async def test_a_waiting_message_is_settled_at_once_and_never_runs(backends: Backends) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.worker(script) as worker:
        await worker.send("slow")
        async with worker.conversation("next", message_id="m") as listener:
            await until(lambda: worker.store_line.calls["put"])
            await until(lambda: not worker.actor().arrivals())
            assert await worker.cancel("m") == "APPLIED"
            assert (await listener.end()).failed.fate == turn_pb2.FATE_CANCELLED
        slow.open.set()
        assert (await worker.ask("last")).fate == turn_pb2.FATE_DONE
        assert await worker.state() == "slow;last;"
        assert (await worker.ask("next", message_id="m")).fate == turn_pb2.FATE_CANCELLED, "the stored end"
        assert "s: next" not in script.started


async def test_a_waiting_message_of_whose_end_nobody_told_never_runs(backends: Backends) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.worker(script) as worker:
        await worker.send("slow")
        async with worker.conversation("next", message_id="m") as listener:
            await until(lambda: worker.store_line.calls["put"])
            await until(lambda: not worker.actor().arrivals())
            assert await worker.control("CANCEL", "m", tell=False) == "APPLIED"
            slow.open.set()
            assert (await listener.end()).failed.fate == turn_pb2.FATE_CANCELLED
        assert (await worker.ask("last")).fate == turn_pb2.FATE_DONE
        assert "s: next" not in script.started


async def test_a_message_that_waits_for_its_retry(backends: Backends) -> None:
    script = Scripted(retry=RetryPolicy(3, 60, 60))
    script.fails("flaky", Unavailable("AWAY", "gone"), times=1)
    async with backends.worker(script) as worker, worker.conversation("flaky", message_id="m") as listener:
        await until(lambda: "sealed" in listener.kinds)
        assert await worker.cancel("m") == "APPLIED"
        assert (await listener.end()).failed.fate == turn_pb2.FATE_CANCELLED
        assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE
        assert script.started == ["s: flaky", "s: next"]


@pytest.mark.parametrize("hot", [True, False])
async def test_an_unseen_message_is_cancelled_when_it_comes(backends: Backends, hot: bool) -> None:
    script = Scripted()
    async with backends.worker(script) as worker:
        if hot:
            await worker.ask("before")
        assert await worker.cancel("m") == "PENDING"
        assert (await worker.ask("next", message_id="m")).fate == turn_pb2.FATE_CANCELLED
        assert (await worker.ask("last")).fate == turn_pb2.FATE_DONE
        assert "s: next" not in script.started


async def test_a_settled_message_is_out_of_reach(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        await worker.ask("hello", message_id="m")
        assert await worker.cancel("m") == "TOO_LATE"
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE


async def test_the_same_verb_again_gets_its_first_answer(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        assert await worker.cancel("m", verb_id="v") == "PENDING"
        await worker.ask("hello", message_id="m")
        assert await worker.cancel("m", verb_id="v") == "PENDING"
        assert await worker.cancel("m", verb_id="other") == "TOO_LATE"


async def test_a_dry_run_changes_nothing(backends: Backends) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.worker(script) as worker:
        await worker.send("slow", message_id="m")
        await slow.entered.wait()
        assert await worker.control("CANCEL", "m", dry_run=True) != "TOO_LATE"
        slow.open.set()
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE
        assert await worker.control("CANCEL", "m", dry_run=True) == "TOO_LATE"


async def test_a_cancel_between_the_reply_and_the_commit_wins(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:

        async def cancel_first(*_: object) -> None:
            worker.store_line.before.clear()
            await worker.cancel("m")

        worker.store_line.before["commit"] = cancel_first
        assert (await worker.ask("hello", message_id="m")).fate == turn_pb2.FATE_CANCELLED
        assert await worker.state() == ""


class TestDeleteSession:
    async def test_what_runs_and_waits_is_cancelled_and_the_state_is_gone(self, backends: Backends) -> None:
        script = Scripted()
        slow = script.gate("slow")
        async with backends.worker(script) as worker:
            await worker.ask("before")
            running = await worker.send("slow")
            waiting = [await worker.send(f"w{number}") for number in range(3)]
            await slow.entered.wait()
            await until(lambda: worker.actor().waiting == 3)

            assert await worker.sessions.delete(key()) == 4

            for message_id in (running, *waiting):
                assert (await worker.end_of(message_id)).fate == turn_pb2.FATE_CANCELLED
            with pytest.raises(NotFound):
                await worker.sessions.get(key(), 0)
            slow.open.set()
            assert (await worker.ask("after")).fate == turn_pb2.FATE_DONE
            assert await worker.state() == "after;"
            assert script.started == ["s: before", "s: slow", "s: after"]
            assert script.most_at_once["s"] == 1

    async def test_of_a_session_that_is_idle_or_not_known(self, backends: Backends) -> None:
        async with backends.worker(Scripted()) as worker:
            await worker.ask("hello", message_id="m")
            assert await worker.sessions.delete(key()) == 0
            assert await worker.sessions.delete(key("nobody")) == 0
            assert (await worker.ask("hello", message_id="m")).fate == turn_pb2.FATE_DONE, "the record stays"
            assert await worker.state() == ""

    async def test_a_session_goes_on_when_the_store_fails_to_delete_it(self, backends: Backends) -> None:
        script = Scripted()
        slow = script.gate("slow")
        async with backends.worker(script) as worker:
            await worker.ask("hello")

            async def fail(*_: object) -> None:
                raise Unavailable("STORE_UNAVAILABLE", "the disk is full")

            worker.store_line.before["delete"] = fail
            waiting = [await worker.send("slow"), await worker.send("again")][1]
            await slow.entered.wait()
            await until(lambda: worker.actor().waiting)
            with pytest.raises(Unavailable):
                await worker.sessions.delete(key())
            assert (await worker.end_of(waiting)).fate == turn_pb2.FATE_DONE
            assert await worker.state() == "hello;again;"

    @pytest.mark.parametrize("when", ["before", "after"])
    async def test_what_has_come_runs_though_whoever_deletes_goes_away(self, backends: Backends, when: str) -> None:
        """Cut off while a message is written down that came beside."""
        script = Scripted()
        slow, writing = script.gate("slow"), asyncio.Event()
        async with backends.worker(script) as worker:
            worker.commits_took(10.0)
            hooks = getattr(worker.store_line, when)

            async def another_comes(*_: object) -> None:
                worker.store_line.before.pop("commit")
                hooks["put"] = hang
                await worker.send("beside", message_id="beside")
                await until(lambda: worker.actor().arrivals())

            async def hang(*_: object) -> None:
                hooks.pop("put")
                writing.set()
                await asyncio.Event().wait()

            await worker.send("slow")
            await slow.entered.wait()
            worker.store_line.before["commit"] = another_comes
            deleting = asyncio.create_task(worker.sessions.delete(key()))
            await writing.wait()
            deleting.cancel()
            await asyncio.wait([deleting])

            assert (await worker.end_of("beside")).fate == turn_pb2.FATE_DONE
            assert script.started == ["s: slow", "s: beside"]


async def test_detaching_from_a_conversation_leaves_the_turn_alone(backends: Backends) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.worker(script) as worker:
        async with worker.conversation("slow", message_id="m"):
            await slow.entered.wait()
        async with aclosing(worker.gateway.follow(key(), "m", None)) as events:
            slow.open.set()
            async for event in events:
                last = event
        assert last.HasField("completed")
