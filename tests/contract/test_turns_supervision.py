"""How an actor stops, what is heard of its failures, and when it leaves memory."""

import asyncio
import contextlib

import pytest
from support.hosting import Backends, key, until
from support.scripted_behaviour import Scripted

from troupe.chassis.errors import Unavailable
from troupe.dataplane.actors import actor as actor_module
from troupe.dataplane.actors import host as host_module
from troupe.dataplane.actors import hot as hot_module
from troupe.dataplane.actors import metrics
from troupe.dataplane.actors.behaviour import TurnContext
from troupe.dataplane.actors.lifecycle import ActorState
from troupe.dataplane.actors.turn import Turn
from troupe.v1 import turn_pb2


async def test_stop_waits_for_the_turn_and_another_stop_disturbs_nothing(backends: Backends) -> None:
    # Given an actor whose turn takes its time to clean up
    script, cleaning, cleaned = Scripted(), asyncio.Event(), asyncio.Event()
    proceed, cleanups = asyncio.Event(), 0

    async def slow(_: TurnContext) -> str:
        nonlocal cleanups
        try:
            await asyncio.Event().wait()
        finally:
            cleanups += 1
            cleaning.set()
            await proceed.wait()
            cleaned.set()
        return ""

    script.does["slow"] = slow
    async with backends.worker(script) as worker:
        message_id = await worker.send("slow")
        await until(lambda: script.started)
        actor = worker.actor()
        stopped = asyncio.ensure_future(actor.stopped())
        # When it is stopped again and again, both ways
        stopping = asyncio.ensure_future(actor.stop())
        await cleaning.wait()
        actor.stop_async()
        again = asyncio.ensure_future(actor.stop())
        await asyncio.sleep(0)
        # Then it has stopped once its turn has ended, which nobody interrupts in its cleaning up
        assert actor.life is ActorState.STOPPED
        assert not any(waiting.done() for waiting in (stopping, again, stopped))
        proceed.set()
        await asyncio.gather(stopping, again, stopped)
        assert cleaned.is_set()
        assert cleanups == 1
        await actor.stop()
        assert [failure async for failure in actor.failures] == []
        # And its message was neither settled nor lost
        assert await worker.real_store.record(key(), message_id) is None
        script.does.clear()
        worker.host._shards.defective(worker.owner)
        assert (await worker.end_of(message_id)).fate == turn_pb2.FATE_DONE


async def test_a_stop_before_the_turn_has_begun(backends: Backends) -> None:
    script = Scripted()
    async with backends.worker(script) as worker:
        await worker.ask("hello")
        actor = worker.actor()
        begin = actor._begin

        def stopped_at_once(turn: Turn) -> None:
            begin(turn)
            actor.stop_async()

        actor._begin = stopped_at_once  # type: ignore[method-assign]
        await worker.send("next")
        async with asyncio.timeout(10):
            await actor.stopped()
        assert script.started == ["s: hello"]


async def test_failures_are_heard_of_the_newest_at_least(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_module, "RELOAD_DELAY", (0.05, 0.05))
    script = Scripted()
    script.fails("flaky", Unavailable("AWAY", "gone"), times=1)
    slow = script.gate("slow")
    async with backends.worker(script) as worker:
        # Given a session that cannot be loaded at first
        failing = asyncio.Event()

        async def fail(*_: object) -> None:
            if not failing.is_set():
                failing.set()
                raise KeyError("what?")

        worker.store_line.before["load"] = fail
        await worker.send("slow")
        await slow.entered.wait()
        failures = worker.actor().failures
        assert (await anext(failures)).reason == "KeyError"
        # When an attempt fails
        slow.open.set()
        assert (await worker.ask("flaky")).fate == turn_pb2.FATE_DONE
        assert (await anext(failures)).reason == "AWAY"
        # And when the runtime fails on it

        async def defect(*_: object) -> None:
            del worker.store_line.before["commit"]
            raise ZeroDivisionError("a defect")

        worker.store_line.before["commit"] = defect
        actor = worker.actor()
        message_id = await worker.send("last")
        await actor.stopped()
        # Then the stream ends with that, and the message has its effect in another life of the session
        assert actor.life is ActorState.FAILED
        assert [failure.reason async for failure in failures] == ["ZeroDivisionError"]
        assert (await worker.end_of(message_id)).fate == turn_pb2.FATE_DONE


async def test_while_memory_is_short_idle_sessions_leave_used_longest_ago_first(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "TEND", 0.01)
    short, script = False, Scripted()
    slow = script.gate("slow")
    async with backends.worker(script, memory_is_short=lambda: short) as worker:
        await worker.send("slow", "busy")
        await slow.entered.wait()
        for number in range(40):
            await worker.ask("hello", f"s{number}")
        await until(lambda: all(worker.actor(f"s{number}").idle for number in range(40)))
        # When memory is short for a moment
        short = True
        await until(lambda: worker.host.hot < 41)
        short = False
        # Then few leave, and those used longest ago
        assert worker.host.hot == 41 - 3
        assert [worker.host.actor(key(f"s{number}")) is None for number in range(4)] == [True, True, True, False]
        # And when it stays so
        short = True
        await until(lambda: worker.host.hot == 1)
        assert worker.host.actor(key("busy"))
        short = False
        assert (await worker.ask("again", "s7")).fate == turn_pb2.FATE_DONE
        assert await worker.state("s7") == "hello;again;"


async def test_a_handler_that_never_returns_costs_its_message_and_no_other(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "TEND", 0.02)
    monkeypatch.setattr(hot_module, "GRACE", 0.1)
    script, done = Scripted(deadline=0.2), asyncio.Event()

    async def deaf(_: TurnContext) -> str:
        while not done.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await done.wait()
        return "at last"

    script.does["deaf"] = deaf
    async with backends.worker(script) as worker:
        # Given a handler that does not end, whatever is done to it
        before = metrics.LEFT_BEHIND._value.get()
        message_id = await worker.send("deaf")
        behind = [await worker.send("next"), await worker.send("last")]
        other = await worker.send("deaf", "other")
        # Then its message is given up as one that never ends, another like it beside, and those behind it run
        for each, session in ((message_id, "s"), (other, "other")):
            status = await worker.end_of(each, session)
            assert (status.fate, status.error.reason) == (turn_pb2.FATE_DEAD, "WORKER_KILLED")
        for each in behind:
            assert (await worker.end_of(each)).fate == turn_pb2.FATE_DONE
        assert metrics.LEFT_BEHIND._value.get() - before == script.started.count("s: deaf") * 2 == 6
        # And when it ends after all, that changes nothing
        done.set()
        await until(lambda: not any(task.get_name() in (message_id, other) for task in asyncio.all_tasks()))
        assert await worker.state() == "next;last;"
        assert (await worker.ask("more")).fate == turn_pb2.FATE_DONE
