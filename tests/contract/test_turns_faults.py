"""Stores and brokers that are away, memory that is short, a runtime that fails: sessions go on by themselves."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from support.brokers import letters
from support.hosting import Backends, key, until
from support.scripted_behaviour import Scripted

from troupe.chassis.errors import NotFound, ResourceExhausted, Unavailable
from troupe.dataplane.actors import actor as actor_module
from troupe.dataplane.admission import Limits
from troupe.v1 import turn_pb2

AWAY = Unavailable("STORE_UNAVAILABLE", "the disk is full")


def failing(error: Exception, times: int = 1) -> Callable[..., Awaitable[None]]:
    left = times

    async def fail(*_: object) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise error

    return fail


@pytest.mark.parametrize("call", ["load", "commit", "journal", "put", "begin", "retry", "record"])
async def test_a_store_that_is_away_for_a_while_is_waited_for(backends: Backends, call: str) -> None:
    script = Scripted()
    script.does["steps"] = script.steps
    script.fails("flaky", Unavailable("AWAY", "gone"), times=1)
    slow = script.gate("slow")
    async with backends.worker(script) as worker:
        for hooks in (worker.store_line.before, worker.store_line.after):
            hooks[call] = failing(AWAY, 2)
        ids = [await worker.send(text) for text in ("slow", "flaky", "steps", "end")]
        slow.open.set()
        ids.append(await worker.send("end", message_id=ids[-1]))
        for message_id in ids:
            async with asyncio.timeout(10):
                while (status := await worker.real_store.record(key(), message_id)) is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert status.fate == turn_pb2.FATE_DONE
        assert await worker.state() == "slow;flaky;steps;end;"
        assert script.effects.total() == 3


async def test_a_broker_that_is_away_when_a_letter_is_to_be_kept(backends: Backends) -> None:
    script = Scripted()
    script.fails("broken", NotFound("GONE", "no such thing"))
    async with backends.worker(script) as worker:
        worker.broker_line.before["dead_letter"] = failing(AWAY, 2)
        assert (await worker.ask("broken")).fate == turn_pb2.FATE_DEAD
        assert len(await letters(worker.real_broker)) == 1


@pytest.mark.parametrize("call", ["commit", "put", "begin", "claim"])
async def test_a_defect_of_the_runtime_is_contained(
    backends: Backends, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.worker(script) as worker:
        worker.store_line.before[call] = failing(KeyError("what?"))
        if call == "claim":
            await worker.host.hold([])
            await worker.host.hold([worker.owner])
        first, second = await worker.send("slow"), await worker.send("next")
        await until(lambda: script.started)
        await until(lambda: call == "commit" or worker.store_line.calls["put"])
        slow.open.set()
        for message_id in (first, second):
            assert (await worker.end_of(message_id)).fate == turn_pb2.FATE_DONE
        assert await worker.state() == "slow;next;"
        assert (await worker.ask("hello", "other")).fate == turn_pb2.FATE_DONE


async def test_what_an_attempt_showed_is_sealed_when_the_runtime_fails(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        worker.store_line.before["commit"] = failing(KeyError("what?"))
        async with worker.conversation("hello") as listener:
            assert (await listener.end()).HasField("completed")
        assert "sealed" in listener.kinds


async def test_a_session_that_cannot_be_loaded_is_tried_again_and_holds_up_nobody(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor_module, "RELOAD_DELAY", (0.2, 0.2))
    async with backends.worker(Scripted()) as worker:
        worker.store_line.before["load"] = failing(KeyError("what?"), 2)
        broken = [await worker.send(f"m{number}", "broken") for number in range(40)]
        assert (await worker.ask("hello", "other")).fate == turn_pb2.FATE_DONE
        assert (await worker.end_of(broken[-1], "broken")).fate == turn_pb2.FATE_DONE
        assert await worker.state("broken") == "".join(f"m{number};" for number in range(40))


class TestMemory:
    async def test_an_idle_session_leaves_memory_and_comes_back_as_it_was(self, backends: Backends) -> None:
        script = Scripted()
        async with backends.worker(script, idle_after=0.0) as worker:
            first = await worker.ask("one", message_id="m")
            await until(lambda: worker.actor().idle)
            worker.host._hot.passivate(10)
            assert worker.host.hot == 0
            assert (await worker.ask("two")).fate == turn_pb2.FATE_DONE
            assert (await worker.ask("one", message_id="m")).result == first.result
            assert await worker.state() == "one;two;"
            assert script.started == ["s: one", "s: two"]

    async def test_the_least_recently_used_goes_and_busy_ones_stay(self, backends: Backends) -> None:
        script = Scripted()
        slow = script.gate("slow")
        async with backends.worker(script, max_hot_sessions=3) as worker:
            await worker.send("slow", "busy", "m")
            await slow.entered.wait()
            for number in range(10):
                await worker.ask("hello", f"s{number}")
                await until(lambda number=number: worker.actor(f"s{number}").idle)  # type: ignore[misc]
            assert worker.host.hot == 3
            assert worker.host.actor(key("busy"))
            assert worker.host.actor(key("s0")) is None
            assert worker.host.actor(key("s9"))
            slow.open.set()
            assert (await worker.end_of("m", "busy")).fate == turn_pb2.FATE_DONE

    async def test_a_full_inbox_refuses_and_the_session_goes_on(self, backends: Backends) -> None:
        script = Scripted()
        slow = script.gate("slow")
        async with backends.worker(script, limits=Limits(session_messages=3)) as worker:
            await worker.send("slow")
            await slow.entered.wait()
            with pytest.raises(ResourceExhausted) as full:
                for number in range(10):
                    await worker.send(f"m{number}")
                    await until(lambda number=number: worker.actor().backlog > number)  # type: ignore[misc]
            assert full.value.retry_after
            slow.open.set()
            await until(lambda: worker.actor().idle)
            assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE


class TestStopping:
    async def test_the_running_turn_may_end_and_no_other_starts(self, backends: Backends) -> None:
        script = Scripted()
        slow = script.gate("slow")
        async with backends.worker(script) as worker:
            await worker.send("slow", message_id="m")
            await worker.send("next", message_id="n")
            await slow.entered.wait()
            asyncio.get_running_loop().call_later(0.1, slow.open.set)
        async with backends.worker(script) as worker:
            assert (await worker.end_of("m", wait=0)).fate == turn_pb2.FATE_DONE
            assert (await worker.end_of("n")).fate == turn_pb2.FATE_DONE
            assert script.started == ["s: slow", "s: next"]

    async def test_a_turn_that_does_not_end_in_time_comes_again(self, backends: Backends) -> None:
        script = Scripted()
        slow = script.gate("slow")
        async with backends.worker(script, drain_timeout=0.05) as worker:
            await worker.send("slow", message_id="m")
            await slow.entered.wait()
        assert slow.left.is_set()
        script.does.clear()
        async with backends.worker(script) as worker:
            assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE

    async def test_it_stops_while_the_store_is_away(self, backends: Backends) -> None:
        async with asyncio.timeout(10), backends.worker(Scripted(), drain_timeout=0.1) as worker:
            for call in ("load", "put", "commit"):
                worker.store_line.before[call] = failing(AWAY, 1000)
            await worker.send("hello")
            await until(lambda: worker.store_line.calls["load"])
