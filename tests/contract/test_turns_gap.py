"""A missing message is waited for, and given up only when it is certainly not on its way."""

import asyncio
import time

from support.hosting import Backends, Worker, key, until
from support.scripted_behaviour import Scripted

from troupe.chassis.wire import timestamp
from troupe.dataplane.actors.patience import PATIENCE
from troupe.v1 import envelope_pb2, turn_pb2
from troupe.v1.envelope_pb2 import Content, Envelope, Number


def message(sequence: int, *, skip: bool = False, stream: str = "theirs") -> Envelope:
    """Of another gateway's stream."""
    kind = envelope_pb2.ENVELOPE_KIND_SKIP if skip else envelope_pb2.ENVELOPE_KIND_MESSAGE
    return Envelope(
        id=f"{stream}-{sequence}",
        target=key().ref(),
        number=Number(stream=stream, sequence=sequence),
        kind=kind,
        content=None if skip else Content(text=f"{stream}-{sequence}"),
        first_sent=timestamp(time.time()),
    )


async def _publish(worker: Worker, *sequences: int) -> None:
    for sequence in sequences:
        await worker.real_broker.publish(message(sequence))


async def test_messages_that_come_out_of_order_run_in_order(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        await _publish(worker, 3, 2, 5, 4, 1)
        assert (await worker.end_of("theirs-5")).fate == turn_pb2.FATE_DONE
        assert await worker.state() == "theirs-1;theirs-2;theirs-3;theirs-4;theirs-5;"


async def test_a_gap_is_passed_over_after_the_timeout_and_a_late_filler_runs_once(backends: Backends) -> None:
    async with backends.worker(Scripted(), order_timeout=0.3) as worker:
        began = time.monotonic()
        await _publish(worker, 2)
        assert (await worker.end_of("theirs-2")).fate == turn_pb2.FATE_DONE
        assert time.monotonic() - began >= 0.3
        await _publish(worker, 1)
        assert (await worker.end_of("theirs-1")).fate == turn_pb2.FATE_DONE
        await _publish(worker, 1, 2, 3)
        assert (await worker.end_of("theirs-3")).fate == turn_pb2.FATE_DONE
        assert await worker.state() == "theirs-2;theirs-1;theirs-3;"


async def test_while_commits_take_long_what_fills_a_gap_does_so_as_soon_as_ever(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        worker.commits_took(10.0)
        async with asyncio.timeout(0.8 * PATIENCE[1]):
            await _publish(worker, 2)
            await until(lambda: worker.store_line.answered["put"])
            await _publish(worker, 1)
            assert (await worker.end_of("theirs-2")).fate == turn_pb2.FATE_DONE


async def test_two_gaps_are_passed_over_one_after_the_other(backends: Backends) -> None:
    async with backends.worker(Scripted(), order_timeout=0.1) as worker:
        await _publish(worker, 2, 4)
        assert (await worker.end_of("theirs-4")).fate == turn_pb2.FATE_DONE
        assert await worker.state() == "theirs-2;theirs-4;"


async def test_without_a_probe_that_comes_back_nothing_is_given_up(backends: Backends) -> None:
    async with backends.worker(Scripted(), order_timeout=0.1) as worker:
        ended = asyncio.Event()

        async def stall(envelope: Envelope) -> None:
            await ended.wait()

        worker.broker_line.before["publish"] = stall
        await _publish(worker, 2)
        await until(lambda: worker.broker_line.calls["publish"])
        await _publish(worker, 1)
        assert (await worker.end_of("theirs-2")).fate == turn_pb2.FATE_DONE
        assert await worker.state() == "theirs-1;theirs-2;"
        assert worker.store_line.calls["pass_over"] == 0
        ended.set()


async def test_a_skip_fills_it_at_once(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        await _publish(worker, 2)
        await worker.real_broker.publish(message(1, skip=True))
        assert (await worker.end_of("theirs-2")).fate == turn_pb2.FATE_DONE
        assert (await worker.load()).recent == ["theirs-2"], "a SKIP leaves no record"


async def test_a_gap_of_one_stream_does_not_hold_up_another(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        await _publish(worker, 2)
        await until(lambda: worker.store_line.answered["put"])
        assert (await worker.ask("mine")).fate == turn_pb2.FATE_DONE


async def test_a_gap_outlives_a_restart(backends: Backends) -> None:
    async with backends.worker(Scripted(), order_timeout=0.2) as worker:
        await _publish(worker, 2)
        await until(lambda: worker.store_line.answered["put"])
        await worker.kill()
    async with backends.worker(Scripted(), order_timeout=0.2) as worker:
        assert (await worker.end_of("theirs-2")).fate == turn_pb2.FATE_DONE


async def test_a_worker_with_a_gap_stops_at_once(backends: Backends) -> None:
    async with backends.worker(Scripted(), drain_timeout=30.0) as worker:
        await _publish(worker, 2)
        await until(lambda: worker.store_line.calls["put"] and not worker.actor().arrivals())
        began = time.monotonic()
    assert time.monotonic() - began < 10, "it waits neither for the gap nor as long as for a turn"


async def test_a_sender_that_is_cancelled_before_the_confirm_leaves_no_gap(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        never = asyncio.Event()

        async def hang(envelope: Envelope) -> None:
            worker.broker_line.before.clear()
            await never.wait()

        worker.broker_line.before["publish"] = hang
        sending = asyncio.create_task(worker.send("lost", message_id="m"))
        await until(lambda: not worker.broker_line.before)
        sending.cancel()
        await asyncio.wait([sending])
        assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE
        assert (await worker.ask("lost", message_id="m")).fate == turn_pb2.FATE_DONE
        assert await worker.state() == "next;lost;"


async def test_a_gap_is_watched_anew_by_a_session_that_has_just_left_memory(backends: Backends) -> None:
    """Whoever watched for the one before it looks again in a second, and watches no more."""
    script = Scripted()
    script.does["ask"] = script.ask_outside
    async with backends.worker(script, order_timeout=0.2) as worker:
        await worker.send("ask", message_id="m")
        await worker.at_rest()
        await _publish(worker, 2)
        await until(lambda: worker.actor().backlog == 2 and not worker.actor().arrivals())
        await worker.passivated()
        await worker.settle("m/answer")
        assert (await worker.end_of("theirs-2")).fate == turn_pb2.FATE_DONE
