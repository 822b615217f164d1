"""PAUSE lets a turn come to rest at its next step, RESUME lets it go on from there; CANCEL and KILL reach it too."""

import asyncio

import pytest
from support.hosting import Backends, key, until
from support.scripted_behaviour import Gate, Scripted

from troupe.broker.retry import RetryPolicy
from troupe.dataplane.actors import host
from troupe.dataplane.actors.behaviour import TurnContext
from troupe.v1 import turn_pb2


class Stepping:
    """Three journaled steps with an effect each, and a gate before the second."""

    def __init__(self, script: Scripted) -> None:
        self.gate, self.script = Gate(), script
        script.does["steps"] = self

    async def __call__(self, turn: TurnContext) -> str:
        for step in ("one", "two", "three"):
            if step == "two":
                await self.gate(turn)
            if f"result/{step}" not in turn.journal.kept:
                await turn.journal.keep({f"start/{step}": b""}, starts=True)
                self.script.effects[step] += 1
                await turn.journal.keep({f"result/{step}": b""}, starts=False)
        return "stepped"


ONCE = {"one": 1, "two": 1, "three": 1}


async def test_a_running_turn_comes_to_rest_at_its_next_step_and_goes_on_from_there(backends: Backends) -> None:
    script = Scripted()
    stepping = Stepping(script)
    async with backends.worker(script) as worker, worker.conversation("steps", message_id="m") as listener:
        await stepping.gate.entered.wait()
        assert await worker.control("PAUSE", "m", verb_id="p") == "APPLIED"
        await until(lambda: worker.store_line.calls["verbs"])
        await worker.ask("hello", "another")
        assert not stepping.gate.left.is_set(), "it does not interrupt what runs"
        stepping.gate.open.set()
        await worker.at_rest()
        assert script.effects == {"one": 1}
        assert (await worker.real_store.load(key())).verbs.paused == {"m"}

        assert await worker.control("RESUME", "m", lifts="p") == "APPLIED"
        end = await listener.end()

    assert (end.completed.result.text, script.effects, script.attempts[1:]) == ("stepped", ONCE, [0, 1])
    assert listener.kinds == ["accepted", "started", "suspended", "started", "completed"]
    suspended, again = listener.events[2:4]
    assert not suspended.suspended.promises
    assert (suspended.attempt, again.attempt, again.started.continues) == (0, 1, True)
    causes = {row.cause: row.duration.ToNanoseconds() / 1e9 for row in end.completed.ledger.rows}
    between = suspended.time.ToNanoseconds(), again.time.ToNanoseconds()
    # The wait begins with its write, which the store takes some time for.
    stored = 0.05 + causes[turn_pb2.LEDGER_CAUSE_STATE_STORE]
    assert causes[turn_pb2.LEDGER_CAUSE_PAUSE] == pytest.approx((between[1] - between[0]) / 1e9, abs=stored)


async def test_a_call_that_runs_comes_to_its_result_before_the_turn_rests(backends: Backends) -> None:
    script, slow = Scripted(), Gate()

    async def side_by_side(turn: TurnContext) -> str:
        async def call(name: str, work: Gate | None) -> None:
            if f"result/{name}" not in turn.journal.kept:
                await turn.journal.keep({f"start/{name}": b""}, starts=True)
                with turn.journal.calling():
                    script.effects[name] += 1
                    if work is not None:
                        await work(turn)
                    await turn.journal.keep({f"result/{name}": b""}, starts=False)

        async def later() -> None:
            await slow.entered.wait()
            if turn.attempt == 0:
                await worker.control("PAUSE", turn.message.id)
            await call("quick", None)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(call("slow", slow))
            tasks.create_task(later())
        return "both"

    script.does["calls"] = side_by_side
    async with backends.worker(script) as worker:
        await worker.send("calls", message_id="m")
        await slow.entered.wait()
        await until(lambda: worker.store_line.calls["journal"] == 2)
        await worker.ask("hello", "another")
        assert not slow.left.is_set()
        slow.open.set()
        await worker.at_rest()
        assert script.effects == {"slow": 1}
        await worker.control("RESUME", "m")
        assert (await worker.end_of("m")).result.text == "both"
        assert script.effects == {"slow": 1, "quick": 1}


async def test_a_turn_without_steps_is_held_at_its_end(backends: Backends) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.worker(script) as worker:
        await worker.send("slow", message_id="m")
        await slow.entered.wait()
        await worker.control("PAUSE", "m")
        slow.open.set()
        await worker.at_rest()
        assert await worker.state() == ""
        await worker.control("RESUME", "m")
        status = await worker.end_of("m")
        assert (status.fate, status.attempts, await worker.state()) == (turn_pb2.FATE_DONE, 2, "slow;")


async def test_what_comes_behind_it_waits_and_other_sessions_do_not(backends: Backends) -> None:
    script = Scripted()
    async with backends.worker(script) as worker:
        await worker.control("PAUSE", "m")
        await worker.send("first", message_id="m")
        later = await worker.send("later")
        await until(lambda: worker.actor().backlog == 2)
        await worker.at_rest()
        assert (await worker.ask("hello", "other")).fate == turn_pb2.FATE_DONE
        assert script.started == ["other: hello"]
        await worker.control("RESUME", "m")
        assert (await worker.end_of(later)).fate == turn_pb2.FATE_DONE
        assert await worker.state() == "first;later;"


async def test_a_message_that_waits_for_its_retry_is_held(backends: Backends) -> None:
    script = Scripted(retry=RetryPolicy(3, 1.0, 1.0))
    script.fails("flaky", ValueError("no"), times=1)
    script.fails("later", ValueError("no"), times=1)
    async with backends.worker(script) as worker, worker.conversation("flaky", message_id="m") as listener:
        await until(lambda: "sealed" in listener.kinds)
        assert await worker.control("PAUSE", "m") == "APPLIED"
        await worker.at_rest()
        assert (await worker.ask("later", "another")).attempts == 2, "its time has come"
        assert [text for text in script.started if text == "s: flaky"] == ["s: flaky"]
        await worker.control("RESUME", "m")
        assert (await listener.end()).completed.result.text == "flaky"


class TestAtRest:
    async def test_a_session_leaves_memory_and_no_sweep_brings_it_back(self, backends: Backends) -> None:
        async with backends.worker(Scripted()) as worker:
            await worker.control("PAUSE", "m")
            await worker.send("held", message_id="m")
            await worker.at_rest()
            await worker.passivated()
            await worker.host._shards.sweep()
            assert worker.host.actor(key()) is None
            await worker.control("RESUME", "m")
            assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE

    @pytest.mark.parametrize("hot", [True, False])
    async def test_a_sweep_finds_what_nobody_told_of(
        self, backends: Backends, hot: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(host, "SWEEP", 0.05)
        async with backends.worker(Scripted()) as worker:
            await worker.control("PAUSE", "m")
            await worker.send("held", message_id="m")
            await worker.at_rest()
            if not hot:
                await worker.passivated()
            await worker.control("RESUME", "m", tell=False)
            assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE

    async def test_a_new_owner_leaves_it_where_it_is(self, backends: Backends) -> None:
        script = Scripted()
        stepping = Stepping(script)
        stepping.gate.open.set()
        async with backends.several(script, 2) as (first, second):
            await first.control("PAUSE", "m")
            await first.send("steps", message_id="m")
            await first.at_rest()
            await first.release(second.owner.instance)
            await second.hold()
            assert second.host.actor(key()) is None
            await second.control("RESUME", "m")
            assert (await second.end_of("m")).fate == turn_pb2.FATE_DONE
            assert script.effects == ONCE

    async def test_a_message_behind_brings_it_back_for_as_long_as_it_takes_to_see(self, backends: Backends) -> None:
        async with backends.worker(Scripted()) as worker:
            await worker.control("PAUSE", "m")
            await worker.send("held", message_id="m")
            await worker.at_rest()
            await worker.passivated()
            await worker.send("behind")
            await until(lambda: worker.host.actor(key()))
            await until(lambda: worker.actor().backlog == 2)
            await worker.passivated()


class TestSooner:
    async def test_a_pause_lifted_before_the_turn_rests_lets_it_go_on_at_once(self, backends: Backends) -> None:
        script = Scripted()
        stepping = Stepping(script)
        async with backends.worker(script) as worker, worker.conversation("steps", message_id="m") as listener:

            async def lift(*_: object) -> None:
                await worker.control("RESUME", "m", tell=False)

            worker.store_line.before["suspend"] = lift
            await stepping.gate.entered.wait()
            await worker.control("PAUSE", "m")
            stepping.gate.open.set()
            assert (await listener.end()).completed.result.text == "stepped"
            assert (await worker.end_of("m")).attempts == 2
        assert script.effects == ONCE
        assert listener.kinds == ["accepted", "started", "started", "completed"]
        assert listener.events[2].started.continues

    async def test_a_start_that_a_pause_refuses_is_no_attempt(self, backends: Backends) -> None:
        script = Scripted()
        slow = script.gate("slow")
        async with backends.worker(script) as worker:

            async def pause(*_: object) -> None:
                worker.store_line.before.clear()
                await worker.control("PAUSE", "m", tell=False)

            await worker.send("slow")
            await worker.send("next", message_id="m")
            await until(lambda: worker.actor().backlog == 1 and not worker.actor().arrivals())
            worker.store_line.before["begin"] = pause
            slow.open.set()
            await worker.at_rest()
            await worker.control("RESUME", "m")
            assert (await worker.end_of("m")).attempts == 1


class TestEnding:
    @pytest.mark.parametrize("verb", ["CANCEL", "KILL"])
    async def test_what_rests_can_be_cancelled(self, backends: Backends, verb: str) -> None:
        script = Scripted()
        stepping = Stepping(script)
        async with backends.worker(script) as worker, worker.conversation("steps", message_id="m") as listener:
            await stepping.gate.entered.wait()
            await worker.control("PAUSE", "m")
            stepping.gate.open.set()
            await worker.at_rest()
            assert await worker.control(verb, "m") == "APPLIED"
            assert (await listener.end()).failed.fate == turn_pb2.FATE_CANCELLED
            assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE
            assert script.effects == {"one": 1}

    async def test_a_pause_of_what_is_cancelled_is_too_late(self, backends: Backends) -> None:
        async with backends.worker(Scripted()) as worker:
            await worker.control("CANCEL", "m")
            assert await worker.control("PAUSE", "m") == "TOO_LATE"
            assert (await worker.ask("hello", message_id="m")).fate == turn_pb2.FATE_CANCELLED


async def test_a_turn_that_goes_on_under_its_mark_rests_for_the_new_owner(backends: Backends) -> None:
    script = Scripted()
    stepping = Stepping(script)
    async with backends.several(script, 2) as (first, second):
        await first.send("steps", message_id="m")
        await stepping.gate.entered.wait()
        await first.release(second.owner.instance)
        await second.hold(first.owner.instance)
        await second.control("PAUSE", "m")
        stepping.gate.open.set()
        await second.at_rest()
        assert script.effects == {"one": 1}
        await second.control("RESUME", "m")
        assert (await second.end_of("m")).fate == turn_pb2.FATE_DONE
        assert script.effects == ONCE


async def test_a_worker_that_dies_leaves_what_rests_to_the_next(backends: Backends) -> None:
    script = Scripted()
    stepping = Stepping(script)
    stepping.gate.open.set()
    async with backends.worker(script) as worker:
        await worker.control("PAUSE", "m")
        await worker.send("steps", message_id="m")
        await worker.at_rest()
        await worker.kill()
    async with backends.worker(script) as worker:
        await worker.control("RESUME", "m")
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE
        assert script.effects == ONCE
