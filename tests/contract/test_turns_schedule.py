"""A scheduled message takes its place when it is due, once, and never before."""

import asyncio
import time

import pytest
from support.fake_clock import FakeClock
from support.hosting import SOON, Backends, key, until
from support.scripted_behaviour import Scripted

from troupe.chassis.errors import Unavailable
from troupe.dataplane import following
from troupe.dataplane.actors import host, schedule
from troupe.dataplane.state.memory import MemoryStateStore
from troupe.dataplane.state.session import Backlog
from troupe.v1 import turn_pb2


async def test_a_message_runs_when_it_is_due_and_not_before(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        due = time.time() + 1.5
        await worker.publish("later", "m", due=due)
        await until(lambda: worker.store_line.answered["put"])
        entry = await worker.real_store.waiting(key(), "m")
        assert entry is not None
        assert entry.due == pytest.approx(due)
        assert (await worker.ask("now")).fate == turn_pb2.FATE_DONE
        status = await worker.end_of("m")
        assert time.time() >= due
        assert status.fate == turn_pb2.FATE_DONE
        assert await worker.state() == "now;later;"


async def test_who_waits_for_one_hears_of_its_end_though_nobody_told_of_that(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LOOK", 0.05)
    monkeypatch.setattr(host, "SWEEP", 3600.0)
    async with backends.worker(Scripted()) as worker:
        await worker.publish("far", "m", due=time.time() + 3600)
        await until(lambda: worker.store_line.calls["put"])
        waiting = asyncio.create_task(worker.end_of("m", wait=60.0))
        await until(lambda: worker.hub.listening(key(), "m"))
        assert await worker.control("CANCEL", "m", tell=False) == "APPLIED"
        async with asyncio.timeout(10):
            assert (await waiting).fate == turn_pb2.FATE_CANCELLED


async def test_what_was_due_when_it_came_takes_its_place_at_once(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        await worker.publish("late", "m", due=time.time() - 5)
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE


async def test_it_holds_nobody_up_and_they_run_in_the_order_in_which_they_are_due(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        await worker.publish("far", "m4", due=time.time() + 3600)
        await until(lambda: worker.store_line.answered["put"])
        assert (await worker.ask("first")).fate == turn_pb2.FATE_DONE
        now = time.time()
        await worker.publish("third", "m3", due=now + 0.3)
        await worker.publish("second", "m2", due=now + 0.15)
        await worker.end_of("m3")
        assert await worker.state() == "first;second;third;"


async def test_one_that_comes_due_sooner_than_the_timer_is_not_late(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        await worker.publish("far", "m2", due=time.time() + 3600)
        await until(lambda: worker.store_line.answered["put"] == 1)
        await worker.publish("near", "m1", due=time.time() + 0.1)
        assert (await worker.end_of("m1", wait=SOON)).fate == turn_pb2.FATE_DONE


async def test_it_is_not_late_though_the_answer_to_its_placing_was_lost(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "SWEEP", 3600.0)
    async with backends.worker(Scripted()) as worker:

        async def lost(*_: object) -> None:
            worker.store_line.after.clear()
            raise Unavailable("STORE_AWAY", "nobody heard the answer")

        worker.store_line.after["put"] = lost
        await worker.publish("later", "m", due=time.time() + 0.5)
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE


async def test_a_session_out_of_memory_is_brought_back(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        await worker.publish("later", "m", due=time.time() + 1.0)
        await until(lambda: worker.store_line.answered["put"])
        await worker.passivated()
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE


async def test_one_that_comes_due_while_its_session_is_loaded_is_not_missed(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        await worker.publish("later", "m", due=time.time() + 1.0)
        await until(lambda: worker.store_line.answered["put"])
        await worker.passivated()
        looks = worker.store_line.calls["due"]

        async def hold(*_: object) -> None:
            worker.store_line.after.clear()
            await until(lambda: worker.store_line.calls["due"] > looks)
            await asyncio.sleep(0.05)

        worker.store_line.after["load"] = hold
        await worker.publish("hello", "n")
        assert (await worker.end_of("m", wait=SOON)).fate == turn_pb2.FATE_DONE


@pytest.mark.parametrize("when", ["waits", "due"])
async def test_a_worker_that_dies_leaves_it_to_the_next(backends: Backends, when: str) -> None:
    async with backends.worker(Scripted()) as worker:
        due = time.time() + 1.0
        await worker.publish("later", "m", due=due)
        await until(lambda: worker.store_line.answered["put"])
        await worker.kill()
    if when == "due":
        await asyncio.sleep(max(0, due - time.time()))
    async with backends.worker(Scripted()) as worker:
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE
        assert time.time() >= due


async def test_a_cancelled_one_never_runs_and_its_number_is_settled(backends: Backends) -> None:
    script = Scripted()
    async with backends.worker(script) as worker:
        await worker.publish("later", "m", due=time.time() + 3600)
        await until(lambda: worker.store_line.answered["put"])
        assert await worker.control("CANCEL", "m") == "APPLIED"
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_CANCELLED
        await until(lambda: worker.store_line.calls["commit"], timeout=SOON)
        assert script.started == []


async def test_a_paused_one_waits_when_it_is_due(backends: Backends) -> None:
    script = Scripted()
    async with backends.worker(script) as worker:
        await worker.publish("later", "m", due=time.time() + 1.0)
        await until(lambda: worker.store_line.answered["put"])
        assert await worker.control("PAUSE", "m") == "APPLIED"
        await worker.at_rest()
        assert script.started == []
        await worker.control("RESUME", "m")
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE


async def test_a_copy_of_what_is_scheduled_runs_once(backends: Backends) -> None:
    script = Scripted()
    async with backends.worker(script) as worker:
        due = time.time() + 1.0
        for _ in range(3):
            await worker.publish("later", "m", due=due)
        await worker.end_of("m")
        await until(lambda: worker.store_line.calls["commit"] == 3)
        assert script.started == ["s: later"]


async def test_its_lifetime_counts_from_when_it_is_due(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        await worker.publish("later", "m", due=time.time() + 1.5, lasts=1.4)
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE


async def test_a_look_that_fails_is_repeated(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "AGAIN", 0.05)
    async with backends.worker(Scripted()) as worker:
        failing = 3

        async def fail(*_: object) -> None:
            nonlocal failing
            failing -= 1
            if failing >= 0:
                raise Unavailable("STORE_UNAVAILABLE", "the disk is full")

        worker.store_line.before["due"] = fail
        await worker.publish("later", "m", due=time.time() + 0.05)
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE


async def test_one_that_took_its_place_while_the_answer_was_lost_is_found_by_the_sweep(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is in memory, where nobody told it of the message."""
    monkeypatch.setattr(host, "SWEEP", 0.05)
    lost = False

    async def lose(*_: object) -> None:
        nonlocal lost
        if not lost and await worker.real_store.session_backlog(key()) != Backlog(0, 0):
            lost = True
            raise Unavailable("STORE_UNAVAILABLE", "the connection broke")

    async with backends.worker(Scripted()) as worker:
        await worker.ask("first")
        worker.store_line.after["due"] = lose
        await worker.publish("later", "m", due=time.time() + 0.05)
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE
        assert lost


class TestClocks:
    async def test_a_store_whose_clock_jumps_ahead_is_asked_by_the_sweep(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(host, "SWEEP", 0.05)
        clock = FakeClock(time.time())
        backends = Backends()
        backends._kept = (backends._kept[0], MemoryStateStore(clock))
        async with backends.worker(Scripted()) as worker:
            await worker.publish("later", "m", due=clock.now() + 3600)
            await until(lambda: worker.store_line.answered["put"])
            clock.advance(3601)
            assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE

    async def test_a_store_whose_clock_is_behind_is_asked_again(self) -> None:
        clock = FakeClock(time.time())
        backends = Backends()
        backends._kept = (backends._kept[0], MemoryStateStore(clock))
        script = Scripted()
        async with backends.worker(script) as worker:
            due = clock.now() + 0.3
            await worker.publish("later", "m", due=due)
            await until(lambda: worker.store_line.calls["due"] >= 3)
            assert script.started == []
            clock.advance(0.4)
            assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE


async def test_a_new_owner_takes_the_schedule_over(backends: Backends) -> None:
    async with backends.several(Scripted(), 2) as (first, second):
        due = time.time() + 1.0
        await first.publish("later", "m", due=due)
        await until(lambda: first.store_line.answered["put"])
        await first.release(second.owner.instance)
        await second.hold()
        assert (await second.end_of("m")).fate == turn_pb2.FATE_DONE
        assert time.time() >= due
