"""A message is confirmed, or its sender is told in time; its number is free, or filled."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from support.hosting import Backends, key, until
from support.scripted_behaviour import Scripted

from troupe.broker.port import NotSent
from troupe.chassis.errors import DeadlineExceeded, NotFound, ResourceExhausted, TroupeError, Unavailable
from troupe.chassis.wire import duration
from troupe.dataplane import sending
from troupe.dataplane.admission import Admission, Limits
from troupe.dataplane.sampling import Sampler
from troupe.v1 import turn_pb2

AWAY = Unavailable("BROKER_AWAY", "the connection broke")
FULL = NotSent("BROKER_FULL", "not now")


def failing(*errors: Exception | None) -> Callable[..., Awaitable[None]]:
    """One call after another ends so; those after them go through."""
    left = list(errors)

    async def fail(*_: object) -> None:
        if left and (error := left.pop(0)) is not None:
            raise error

    return fail


@pytest.mark.parametrize("arrives", [True, False])
async def test_what_may_have_been_sent_is_sent_again_as_it_was_until_it_is_confirmed(
    backends: Backends, arrives: bool
) -> None:
    async with backends.worker(Scripted()) as worker:
        hooks = worker.broker_line.after if arrives else worker.broker_line.before
        hooks["publish"] = failing(AWAY, AWAY)
        await worker.send("once")
        assert worker.broker_line.calls["publish"] == 3
        assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE
        assert await worker.state() == "once;next;"
        (position,) = (await worker.load()).positions.values()
        assert position.settled == 2


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_message_without_a_confirm_ends_in_its_time_and_holds_up_nobody(
    backends: Backends, arrives: bool
) -> None:
    async with backends.worker(Scripted()) as worker:
        hooks = worker.broker_line.after if arrives else worker.broker_line.before
        hooks["publish"] = failing(*[AWAY] * 1000)
        began = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceeded, match="send it again under this id") as error:
            await worker.send("perhaps", message_id="m", within=1.0)
        assert asyncio.get_running_loop().time() - began < 10
        assert error.value.reason == "UNCONFIRMED"
        hooks["publish"] = failing()
        assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE
        assert (await worker.ask("perhaps", message_id="m")).fate == turn_pb2.FATE_DONE
        assert await worker.state() == ("perhaps;next;" if arrives else "next;perhaps;")


async def test_a_caller_that_goes_before_the_confirm_leaves_no_gap(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        held = asyncio.Event()

        async def hold(*_: object) -> None:
            held.set()
            await asyncio.Event().wait()

        worker.broker_line.before["publish"] = hold
        going = asyncio.create_task(worker.send("gone"))
        await held.wait()
        del worker.broker_line.before["publish"]
        going.cancel()
        assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE


@pytest.mark.parametrize(("error", "told"), [(FULL, ResourceExhausted), (NotFound("QUEUE_UNKNOWN", "none"), NotFound)])
async def test_a_number_that_was_not_sent_is_given_out_again(
    backends: Backends, error: TroupeError, told: type[TroupeError]
) -> None:
    async with backends.worker(Scripted()) as worker:
        worker.broker_line.before["publish"] = failing(error)
        with pytest.raises(told):
            await worker.send("refused")
        await worker.ask("taken")
        (position,) = (await worker.load()).positions.values()
        assert position.settled == 1
        assert worker.broker_line.calls["publish_many"] == 0


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_scheduled_message_without_a_confirm_may_be_sent_again_and_holds_up_nobody(
    backends: Backends, arrives: bool
) -> None:
    """Its stream is its own: there is nothing to fill, and nothing waits for it."""
    async with backends.worker(Scripted()) as worker:
        await worker.ask("before")
        hooks = worker.broker_line.after if arrives else worker.broker_line.before
        hooks["publish"] = failing(*[AWAY] * 1000)
        with pytest.raises(DeadlineExceeded):
            await worker.send("later", message_id="m", within=0.5, deliver_after=duration(2.0))
        hooks["publish"] = failing()
        await worker.send("later", message_id="m", deliver_after=duration(2.0))
        assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE
        assert await worker.state() == "before;next;later;"
        assert worker.broker_line.calls["publish_many"] == 0
        assert {position.settled for position in (await worker.load()).positions.values()} == {1, 2}


async def test_a_number_that_may_have_been_sent_is_not_free_when_the_broker_fills_up(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        worker.broker_line.after["publish"] = failing(AWAY)
        worker.broker_line.before["publish"] = failing(None, *[FULL] * 1000)
        with pytest.raises(DeadlineExceeded):
            await worker.send("sent", message_id="m", within=1.0)
        worker.broker_line.before.clear()
        assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE
        assert await worker.state() == "sent;next;"


async def test_skips_are_published_until_they_are_confirmed_and_only_so_many_wait(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "MAX_UNCONFIRMED", 3)
    async with backends.worker(Scripted()) as worker:
        worker.broker_line.before["publish"] = failing(*[AWAY] * 1000)
        worker.broker_line.before["publish_many"] = failing(*[AWAY] * 1000)
        for number in range(3):
            with pytest.raises(DeadlineExceeded):
                await worker.send(f"m{number}", within=0.01)
        with pytest.raises(Unavailable) as refused:
            await worker.send("one too many", within=0.01)
        assert refused.value.reason == "UNCONFIRMED"
        assert refused.value.retry_after
        worker.broker_line.before.clear()
        async with asyncio.timeout(10):
            while True:
                try:
                    assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE
                    break
                except Unavailable:
                    await asyncio.sleep(0.05)
        (position,) = (await worker.load()).positions.values()
        assert position.settled == 4
        assert worker.broker_line.calls["publish_many"] > 1
        assert worker.host.actor(key()) is not None


class TestAdmission:
    async def test_a_full_mailbox_refuses_until_it_is_worked_off(self, backends: Backends) -> None:
        script = Scripted()
        gate = script.gate("slow")
        limits = Limits(mailbox_messages=20)
        async with backends.worker(script, limits=limits) as worker:
            with pytest.raises(ResourceExhausted) as full:
                async with asyncio.timeout(20):
                    for number in range(100_000):
                        await worker.send("slow", session=f"s{number}")
                        await asyncio.sleep(0.01)
            assert full.value.reason == "MAILBOX_FULL"
            assert full.value.retry_after
            gate.open.set()
            async with asyncio.timeout(10):
                while True:
                    try:
                        await worker.ask("next")
                        break
                    except ResourceExhausted:
                        await asyncio.sleep(0.1)

    async def test_a_session_that_another_worker_has_in_memory_is_sampled(self, backends: Backends) -> None:
        script = Scripted()
        gate = script.gate("slow")
        async with backends.worker(script) as worker:
            await worker.send("slow")
            await gate.entered.wait()
            for number in range(5):
                await worker.send(f"m{number}")
            await until(lambda: worker.actor().backlog == 5)
            await until(lambda: worker.store_line.calls["put"] >= 5)
            far = Admission(Limits(session_messages=5))
            sampler = Sampler(far, worker.real_broker, worker.real_store, worker.clock)
            running = asyncio.create_task(sampler.run())
            with pytest.raises(ResourceExhausted) as full:
                async with asyncio.timeout(10):
                    while True:
                        far.check(key(), 0, None, worker.clock.monotonic())
                        sampler.wake()
                        await asyncio.sleep(0.05)
            assert full.value.reason == "SESSION_FULL"
            running.cancel()
            gate.open.set()

    async def test_the_hot_path_waits_for_no_sample(self, backends: Backends) -> None:
        async with backends.worker(Scripted()) as worker:
            held = asyncio.Event()

            async def hold(*_: object) -> None:
                held.set()
                await asyncio.Event().wait()

            worker.store_line.before["backlog"] = hold
            assert (await worker.ask("one")).fate == turn_pb2.FATE_DONE
            await held.wait()
            assert (await worker.ask("two")).fate == turn_pb2.FATE_DONE
            assert worker.store_line.calls["session_backlog"] == 0
