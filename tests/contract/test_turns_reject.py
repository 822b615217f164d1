"""A message that refuses to wait is settled as REJECTED where anything of its session runs or waits, and not else."""

import asyncio
import time

import pytest
from support.hosting import SOON, Backends, key, until
from support.scripted_behaviour import Scripted

from troupe.broker.retry import RetryPolicy
from troupe.chassis.errors import Unavailable
from troupe.v1 import turn_pb2

REJECTED = turn_pb2.FATE_REJECTED


async def test_it_runs_where_nothing_does(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        for number in range(3):
            await worker.publish("hello", f"m{number}", reject_when_busy=True)
            assert (await worker.end_of(f"m{number}")).fate == turn_pb2.FATE_DONE


async def test_it_is_told_at_once_where_a_turn_runs(backends: Backends) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.worker(script) as worker:
        await worker.send("slow", message_id="s")
        await slow.entered.wait()
        waits = asyncio.create_task(worker.end_of("m"))
        await asyncio.sleep(0)
        await worker.publish("hello", "m", reject_when_busy=True)
        status = await waits
        assert (status.fate, status.error.reason, status.attempts) == (REJECTED, "SESSION_BUSY", 0)
        assert not slow.left.is_set()
        slow.open.set()
        assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE
        assert await worker.state() == "slow;next;"
        await worker.publish("hello", "m", reject_when_busy=True)
        await until(lambda: worker.store_line.calls["commit"] == 4)
        assert (await worker.end_of("m")).fate == REJECTED, "its end is final"


async def test_it_is_where_something_waits(backends: Backends) -> None:
    script = Scripted(retry=RetryPolicy(3, 60, 60))
    script.fails("flaky", Unavailable("AWAY", "gone"), times=1)
    async with backends.worker(script) as worker, worker.conversation("flaky") as listener:
        await until(lambda: "sealed" in listener.kinds)
        await worker.publish("hello", "m", reject_when_busy=True)
        assert (await worker.end_of("m")).fate == REJECTED


async def test_it_is_behind_what_came_before_it(backends: Backends) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.worker(script) as worker:
        await worker.publish("slow", "first", reject_when_busy=True)
        await worker.publish("hello", "second", reject_when_busy=True)
        assert (await worker.end_of("second")).fate == REJECTED
        slow.open.set()
        assert (await worker.end_of("first")).fate == turn_pb2.FATE_DONE


async def test_it_is_in_a_session_at_rest(backends: Backends) -> None:
    script = Scripted()
    script.does["ask"] = script.ask_outside
    async with backends.worker(script) as worker:
        await worker.send("ask", message_id="a")
        await worker.at_rest()
        await worker.passivated()
        await worker.publish("hello", "m", reject_when_busy=True)
        assert (await worker.end_of("m")).fate == REJECTED


@pytest.mark.parametrize("busy", [True, False])
async def test_one_that_is_scheduled_is_judged_when_it_is_due(backends: Backends, busy: bool) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.worker(script) as worker:
        if not busy:
            await worker.send("slow")
            await slow.entered.wait()
        await worker.publish("hello", "m", due=time.time() + 1.0, reject_when_busy=True)
        await until(lambda: worker.store_line.answered["put"])
        if busy:
            await worker.send("slow")
        else:
            slow.open.set()
        assert (await worker.end_of("m", wait=SOON)).fate == (REJECTED if busy else turn_pb2.FATE_DONE)
        assert slow.left.is_set() is not busy, "and told at once"
        slow.open.set()


async def test_one_that_began_is_not_rejected_when_it_comes_again(backends: Backends) -> None:
    script = Scripted()
    gate = script.gate("slow")
    async with backends.worker(script) as worker:
        await worker.publish("slow", "m", reject_when_busy=True)
        await gate.entered.wait()
        actor = worker.actor()
        assert actor.turn is not None
        await actor._custody.mark(actor.turn)
        await worker.kill()
    gate.open.set()
    async with backends.worker(script) as worker:
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE
        loaded = await worker.real_store.load(key())
        assert loaded.version == 1
