"""A turn that waits for a promise holds nothing, and goes on from its journal when the first settlement comes."""

import asyncio
import functools
import time

import pytest
from support.hosting import SOON, Backends, Worker, key, until
from support.scripted_behaviour import Gate, Scripted

from troupe.chassis.errors import FailedPrecondition
from troupe.dataplane.actors import host
from troupe.dataplane.actors.behaviour import TurnContext
from troupe.dataplane.state.control import Promise
from troupe.v1 import promise_pb2, turn_pb2

ANSWER = "m/answer"


def asking() -> Scripted:
    script = Scripted()
    script.does["ask"] = script.ask_outside
    return script


async def test_a_turn_waits_for_its_promise_and_sees_its_value(backends: Backends) -> None:
    script, began = asking(), time.monotonic()
    async with backends.worker(script) as worker, worker.conversation("ask", message_id="m") as listener:
        await worker.at_rest()
        await asyncio.sleep(0.1)
        assert await worker.settle(ANSWER, "forty-two") == "APPLIED"
        end = await listener.end()
        whole = time.monotonic() - began
        assert await worker.settle(ANSWER, "another") == "DUPLICATE"

    assert (end.completed.result.text, script.attempts) == ("forty-two", [0, 1])
    assert listener.kinds == ["accepted", "started", "suspended", "started", "completed"]
    (promise,) = listener.events[2].suspended.promises
    assert (promise.promise_id, promise.name, promise.HasField("expires")) == (ANSWER, "answer", False)
    assert listener.events[3].started.continues
    causes = {row.cause: row.duration.ToNanoseconds() / 1e9 for row in end.completed.ledger.rows}
    # Where the store's answer to the wait came late, that part of it is the store's.
    waits = causes[turn_pb2.LEDGER_CAUSE_PROMISE] + causes[turn_pb2.LEDGER_CAUSE_STATE_STORE]
    assert 0.1 <= waits <= whole


async def test_what_is_not_settled_expires_and_the_turn_sees_that(backends: Backends) -> None:
    script = asking()
    async with backends.worker(script) as worker:
        script.promises_expire = time.time() + 0.15
        await worker.send("ask", message_id="m")
        assert (await worker.end_of("m", wait=SOON)).result.text == "PROMISE_STATE_EXPIRED"
        assert time.time() >= script.promises_expire
        assert await worker.settle(ANSWER) == "EXPIRED"


async def test_messages_behind_wait_for_the_promise_and_other_sessions_do_not(backends: Backends) -> None:
    async with backends.worker(asking()) as worker:
        await worker.send("ask", message_id="m")
        await worker.at_rest()
        later = await worker.send("later")
        assert (await worker.ask("hello", "other")).fate == turn_pb2.FATE_DONE
        await worker.settle(ANSWER)
        assert (await worker.end_of(later)).fate == turn_pb2.FATE_DONE
        assert await worker.state() == "ask;later;"


async def test_a_settlement_before_the_turn_rests_lets_it_go_on_at_once(backends: Backends) -> None:
    script = asking()
    async with backends.worker(script) as worker, worker.conversation("ask", message_id="m") as listener:

        async def settle(*_: object) -> None:
            assert await worker.settle(ANSWER, "sooner", tell=False) == "APPLIED"

        worker.store_line.before["suspend"] = settle
        assert (await listener.end()).completed.result.text == "sooner"
        assert (await worker.end_of("m")).attempts == 2
    assert listener.kinds == ["accepted", "started", "started", "completed"]


async def test_a_promise_is_open_before_the_attempt_can_tell_of_it(backends: Backends) -> None:
    script = Scripted()

    async def ask_twice(turn: TurnContext) -> str:
        for name in ("one", "two"):
            promise_id = f"m/{name}"
            if promise_id not in turn.journal.promises:
                made = Promise(promise_id, name, "m", time.time())
                await turn.journal.keep({}, starts=True, promises=[made])
                kept = await worker.real_store.promise(key(), promise_id)
                assert kept is not None
                assert kept.state == promise_pb2.PROMISE_STATE_OPEN
            if turn.journal.promises[promise_id].state == promise_pb2.PROMISE_STATE_OPEN:
                await turn.suspend([promise_id])
        return " ".join(promise.value.decode() for promise in turn.journal.promises.values())

    script.does["ask"] = ask_twice
    async with backends.worker(script) as worker:
        await worker.send("ask", message_id="m")
        for attempts, name in enumerate(("one", "two"), 1):
            await until(functools.partial(_suspended, worker, attempts))
            await worker.at_rest()
            await worker.settle(f"m/{name}", name.upper())
        assert (await worker.end_of("m")).result.text == "ONE TWO"


def _suspended(worker: Worker, times: int) -> bool:
    return worker.store_line.calls["suspend"] == times


async def test_calls_that_run_beside_come_to_their_result_first(backends: Backends) -> None:
    script, slow = asking(), Gate()

    async def side_by_side(turn: TurnContext) -> str:
        async def call() -> None:
            if "result/call" not in turn.journal.kept:
                await turn.journal.keep({"start/call": b""}, starts=True)
                with turn.journal.calling():
                    script.effects["call"] += 1
                    await slow(turn)
                    await turn.journal.keep({"result/call": b""}, starts=False)

        async def too_late() -> None:
            await slow.left.wait()
            await turn.journal.keep({f"start/late {turn.attempt}": b""}, starts=True)
            script.effects[f"late {turn.attempt}"] += 1

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(call())
            await slow.entered.wait()
            tasks.create_task(too_late())
            return await script.ask_outside(turn)

    script.does["both"] = side_by_side
    async with backends.worker(script) as worker:
        await worker.send("both", message_id="m")
        await slow.entered.wait()
        await worker.ask("hello", "another")
        assert not slow.left.is_set()
        slow.open.set()
        await worker.at_rest()
        await worker.settle(ANSWER, "fine")
        assert (await worker.end_of("m")).result.text == "fine"
        assert script.effects == {"call": 1, "late 1": 1}, "nothing starts in an attempt that comes to wait"


@pytest.mark.parametrize("ids", [[], ["m/nobody"], ["m/settled"]], ids=["none", "unknown", "settled"])
async def test_what_is_not_open_cannot_be_waited_for(backends: Backends, ids: list[str]) -> None:
    script = Scripted()

    async def wait(turn: TurnContext) -> str:
        if ids == ["m/settled"] and not turn.journal.promises:
            await turn.journal.keep({}, starts=True, promises=[Promise("m/settled", "settled", "m", 0.0)])
            await worker.settle("m/settled", tell=False)
            await turn.suspend(ids)
        with pytest.raises(FailedPrecondition):
            await turn.suspend(ids)
        return "went on"

    script.does["wait"] = wait
    async with backends.worker(script) as worker:
        assert (await worker.ask("wait", message_id="m")).result.text == "went on"


async def test_an_attempt_that_fails_keeps_its_promise(backends: Backends) -> None:
    script = asking()

    async def fail_once(turn: TurnContext) -> str:
        if turn.attempt == 1:
            raise ValueError("no")
        return await script.ask_outside(turn)

    script.does["ask"] = fail_once
    async with backends.worker(script) as worker:
        await worker.send("ask", message_id="m")
        await worker.at_rest()
        await worker.settle(ANSWER, "kept")
        status = await worker.end_of("m")
        assert (status.result.text, script.attempts) == ("kept", [0, 1, 2])


async def test_one_that_waited_past_its_expiry_is_tried_again_all_the_same(backends: Backends) -> None:
    script = asking()

    async def fail_once(turn: TurnContext) -> str:
        if turn.attempt == 1:
            raise ValueError("no")
        return await script.ask_outside(turn)

    script.does["ask"] = fail_once
    async with backends.worker(script) as worker:
        await worker.publish("ask", "m", lasts=1.0)
        await worker.at_rest()
        await asyncio.sleep(1.0)
        await worker.settle(ANSWER, "in the end")
        assert (await worker.end_of("m")).result.text == "in the end"


async def test_a_cancelled_turn_withdraws_its_promise(backends: Backends) -> None:
    async with backends.worker(asking()) as worker, worker.conversation("ask", message_id="m") as listener:
        await worker.at_rest()
        assert await worker.control("CANCEL", "m") == "APPLIED"
        assert (await listener.end()).failed.fate == turn_pb2.FATE_CANCELLED
        assert await worker.settle(ANSWER) == "WITHDRAWN"
        assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE


async def test_a_paused_turn_whose_promise_is_settled_waits_for_both(backends: Backends) -> None:
    script = asking()
    async with backends.worker(script) as worker:
        await worker.send("ask", message_id="m")
        await worker.at_rest()
        await worker.control("PAUSE", "m")
        await worker.settle(ANSWER, "both")
        await until(lambda: worker.store_line.calls["load"] >= 2)
        await worker.at_rest()
        assert script.attempts == [0]
        await worker.control("RESUME", "m")
        assert (await worker.end_of("m")).result.text == "both"


class TestNothingIsHeld:
    async def test_a_session_leaves_memory_and_its_promise_brings_it_back(self, backends: Backends) -> None:
        async with backends.worker(asking()) as worker:
            await worker.send("ask", message_id="m")
            await worker.at_rest()
            await worker.passivated()
            await worker.host._shards.sweep()
            assert worker.host.actor(key()) is None
            await worker.settle(ANSWER)
            assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE

    @pytest.mark.parametrize("hot", [True, False])
    async def test_a_sweep_finds_a_settlement_that_nobody_told_of(
        self, backends: Backends, hot: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(host, "SWEEP", 0.05)
        async with backends.worker(asking()) as worker:
            await worker.send("ask", message_id="m")
            await worker.at_rest()
            if not hot:
                await worker.passivated()
            await worker.settle(ANSWER, tell=False)
            assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE

    async def test_a_worker_that_dies_leaves_it_to_the_next(self, backends: Backends) -> None:
        script = asking()
        async with backends.worker(script) as worker:
            await worker.send("ask", message_id="m")
            await worker.at_rest()
            await worker.kill()
        async with backends.worker(script) as worker:
            assert worker.host.actor(key()) is None
            await worker.settle(ANSWER, "later")
            assert (await worker.end_of("m")).result.text == "later"
            assert script.attempts == [0, 1]

    async def test_one_settled_while_no_worker_was_there_goes_on(self, backends: Backends) -> None:
        script = asking()
        async with backends.worker(script) as worker:
            await worker.send("ask", message_id="m")
            await worker.at_rest()
            await worker.settle(ANSWER, "meanwhile", tell=False)
            await worker.kill()
        async with backends.worker(script) as worker:
            assert (await worker.end_of("m")).result.text == "meanwhile"


async def test_a_turn_that_goes_on_under_its_mark_waits_for_the_new_owner(backends: Backends) -> None:
    script = Scripted()
    gate = Gate()

    async def hold_then_ask(turn: TurnContext) -> str:
        await gate(turn)
        return await script.ask_outside(turn)

    script.does["ask"] = hold_then_ask
    async with backends.several(script, 2) as (first, second):
        await first.send("ask", message_id="m")
        await gate.entered.wait()
        await first.release(second.owner.instance)
        await second.hold(first.owner.instance)
        gate.open.set()
        await second.at_rest()
        await second.settle(ANSWER, "moved")
        assert (await second.end_of("m")).result.text == "moved"
        assert script.attempts == [0, 1]
