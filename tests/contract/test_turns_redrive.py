"""A message that comes again from its dead letter: it runs while it is dead, finds what it had done, and ends once."""

import asyncio
import time

from support.brokers import letters
from support.hosting import Backends, Worker, until
from support.scripted_behaviour import Scripted

from troupe.broker.retry import RetryPolicy
from troupe.chassis.errors import FailedPrecondition
from troupe.chassis.wire import timestamp
from troupe.dataplane.actors.behaviour import TurnContext
from troupe.v1 import turn_pb2
from troupe.v1.envelope_pb2 import Envelope


async def _redrive(worker: Worker, stream: str, *, sent: float | None = None) -> None:
    letter = (await letters(worker.real_broker))[-1]
    envelope = Envelope.FromString(letter.body)
    envelope.number.stream, envelope.number.sequence = stream, 1
    envelope.redrives += 1
    envelope.first_sent.CopyFrom(timestamp(time.time() if sent is None else sent))
    envelope.ClearField("expires")
    await worker.real_broker.publish(envelope)


async def _fate(worker: Worker, fate: turn_pb2.Fate.ValueType) -> None:
    async with asyncio.timeout(10):
        while (await worker.end_of("m", wait=0)).fate != fate:  # noqa: ASYNC110 - it is the store that is waited for
            await asyncio.sleep(0.01)


async def test_it_replays_its_journal_and_ends_once(backends: Backends) -> None:
    script = Scripted(retry=RetryPolicy(0, 0.01, 0.04))
    broken = True

    async def steps(turn: TurnContext) -> str:
        await script.steps(turn)
        if broken:
            raise FailedPrecondition("BROKEN", "not yet")
        return "mended"

    script.does["steps"] = steps
    async with backends.worker(script) as worker:
        assert (await worker.ask("steps", message_id="m")).fate == turn_pb2.FATE_DEAD
        broken = False
        await _redrive(worker, "again")
        await _redrive(worker, "and-again")
        await _fate(worker, turn_pb2.FATE_DONE)
        await until(lambda: worker.actor().idle)
        assert await worker.state() == "steps;"
    assert set(script.effects.values()) == {1}
    assert len(script.started) == 2


async def test_one_that_fails_again_leaves_another_letter_with_its_history(backends: Backends) -> None:
    script = Scripted()
    script.fails("broken", FailedPrecondition("BROKEN", "not yet"))
    async with backends.worker(script) as worker:
        await worker.ask("broken", message_id="m")
        await _redrive(worker, "again")
        await until(lambda: len(script.started) == 2)
        await until(lambda: worker.broker_line.calls["dead_letter"] == 2)
        await until(lambda: worker.actor().idle)
        found = await letters(worker.real_broker)
        assert Envelope.FromString(found[-1].body).redrives == 1
        assert len({letter.id for letter in found}) == 2


async def test_one_that_comes_before_its_owner_has_heard_of_the_end_runs(backends: Backends) -> None:
    """The store has given the message up, and the answer is slow, or was lost."""
    script = Scripted()
    script.fails("flaky", FailedPrecondition("BROKEN", "not yet"), times=1)
    given_up, heard = asyncio.Event(), asyncio.Event()

    async def slow(*_: object) -> None:
        given_up.set()
        await heard.wait()

    async with backends.worker(script) as worker:
        worker.store_line.after["commit"] = slow
        await worker.send("flaky", message_id="m")
        await given_up.wait()
        await _redrive(worker, "again")
        await until(lambda: any(entry.redriven for entry in worker.actor()._memory.inbox))
        heard.set()
        await _fate(worker, turn_pb2.FATE_DONE)
        assert len(script.started) == 2


async def test_a_copy_of_what_ended_well_is_answered_and_not_run(backends: Backends) -> None:
    script = Scripted()
    script.fails("flaky", FailedPrecondition("BROKEN", "not yet"), times=1)
    async with backends.worker(script) as worker:
        await worker.ask("flaky", message_id="m")
        await _redrive(worker, "again")
        await _fate(worker, turn_pb2.FATE_DONE)
        await _redrive(worker, "late")
        await until(lambda: worker.store_line.calls["commit"] >= 3)
        await until(lambda: worker.actor().idle)
        assert len(script.started) == 2
        assert await worker.state() == "flaky;"


async def test_it_is_stale_by_its_own_time(backends: Backends) -> None:
    script = Scripted()
    script.fails("flaky", FailedPrecondition("BROKEN", "not yet"), times=1)
    async with backends.worker(script) as worker:
        await worker.ask("flaky", message_id="m")
        await _redrive(worker, "old", sent=time.time() - 24 * 3600)
        await _fate(worker, turn_pb2.FATE_EXPIRED)
        assert len(script.started) == 1
