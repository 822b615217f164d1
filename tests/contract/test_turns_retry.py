"""What fails is tried again by its policy, in its place; what cannot succeed ends among the dead letters."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY
from support.brokers import letters
from support.hosting import Backends, key, until
from support.scripted_behaviour import Scripted

from troupe.broker.retry import RetryPolicy
from troupe.chassis.errors import FailedPrecondition, ResourceExhausted, TroupeError, Unavailable
from troupe.chassis.wire import duration, seconds, timestamp
from troupe.dataplane.actors import host
from troupe.dataplane.actors.behaviour import TurnContext
from troupe.dataplane.actors.outcome import MAX_SAID, STALE_AFTER
from troupe.v1 import envelope_pb2, turn_pb2
from troupe.v1.envelope_pb2 import Content, Envelope, Number

BUSY = Unavailable("MODEL_UNAVAILABLE", "the model does not answer")


async def test_attempts_are_sealed_with_the_time_of_the_next_and_counted(backends: Backends) -> None:
    script = Scripted(retry=RetryPolicy(3, 0.1, 0.2))
    script.fails("flaky", BUSY, times=3)
    fails, began = script.does["flaky"], list[float]()

    async def flaky(turn: TurnContext) -> str:
        began.append(time.time())
        return await fails(turn)

    script.does["flaky"] = flaky
    async with backends.worker(script) as worker, worker.conversation("flaky", message_id="m") as listener:
        end = await listener.end()
        status = await worker.end_of("m")

    sealed = [event for event in listener.events if event.HasField("sealed")]
    for start, seal, delay in zip(began, sealed, (0.1, 0.2, 0.2), strict=False):
        failed = seconds(seal.sealed.next_attempt) - delay
        assert start - 0.001 <= failed <= seconds(seal.time) + 0.001
    assert {event.sealed.error.reason for event in sealed} == {"MODEL_UNAVAILABLE"}
    assert script.attempts == [0, 1, 2, 3]
    assert end.completed.result.text == "flaky"
    assert status.attempts == 4
    assert [event.attempt for event in sealed] == [0, 1, 2]
    assert listener.kinds[-2:] == ["started", "completed"]


@pytest.mark.parametrize("kind", [Unavailable, FailedPrecondition])
async def test_an_error_that_cannot_be_sent_as_it_is_ends_its_message_all_the_same(
    backends: Backends, kind: type[TroupeError]
) -> None:
    """A file's name that is no UTF-8, say, or all of a page that was no JSON."""
    script = Scripted(retry=RetryPolicy(1, 0.01, 0.01))
    script.fails("odd", kind("AWAY\udce9", "caf\udce9 " + "x" * 100_000, resource="\udce9"))
    async with backends.worker(script) as worker:
        status = await worker.ask("odd", message_id="m")
        (letter,) = await letters(worker.real_broker)
        assert (await worker.ask("hello")).fate == turn_pb2.FATE_DONE

    assert (status.fate, status.error.reason) == (turn_pb2.FATE_DEAD, "AWAY?")
    assert status.error.message.startswith("caf? xxx")
    assert len(status.error.message) == len(letter.error) == MAX_SAID
    assert script.attempts == ([0, 1, 0] if kind.retryable else [0, 0])


async def test_retries_are_counted_by_reason_and_attempt_and_what_waits_is_counted(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def retried(attempt: int) -> float:
        labels = {"reason": "MODEL_UNAVAILABLE", "attempt": str(attempt)}
        return REGISTRY.get_sample_value("troupe_turn_retries_total", labels) or 0.0

    monkeypatch.setattr(host, "SWEEP", 0.01)
    before = [retried(attempt) for attempt in range(3)]
    script = Scripted(retry=RetryPolicy(3, 0.01, 0.01))
    script.fails("flaky", BUSY, times=2)
    gate = script.gate("slow")
    async with backends.worker(script) as worker:
        await worker.ask("flaky")
        await worker.send("slow")
        await worker.send("later")
        await until(lambda: REGISTRY.get_sample_value("troupe_inbox_messages") == 1)
        gate.open.set()
        await until(lambda: REGISTRY.get_sample_value("troupe_inbox_messages") == 0)

    assert [retried(attempt) for attempt in range(3)] == [before[0] + 1, before[1] + 1, before[2]]


async def test_later_messages_wait_behind_a_retry_and_other_sessions_do_not(backends: Backends) -> None:
    script = Scripted(retry=RetryPolicy(3, 1.0, 1.0))
    script.fails("flaky", BUSY, times=1)
    async with backends.worker(script) as worker:
        await worker.send("flaky")
        later = await worker.send("later")
        await until(lambda: script.started)
        assert (await worker.ask("hello", "other")).fate == turn_pb2.FATE_DONE
        assert script.started == ["s: flaky", "other: hello"]
        assert (await worker.end_of(later)).fate == turn_pb2.FATE_DONE
        assert await worker.state() == "flaky;later;"


async def test_retry_after_is_honoured(backends: Backends) -> None:
    script = Scripted()
    script.fails("limited", ResourceExhausted("RATE_LIMITED", "slow down", retry_after=0.5), times=1)
    async with backends.worker(script) as worker:
        began = time.monotonic()
        assert (await worker.ask("limited")).fate == turn_pb2.FATE_DONE
        assert time.monotonic() - began >= 0.5


async def test_a_retry_past_the_expiry_is_not_waited_for(backends: Backends) -> None:
    script = Scripted()
    script.fails("limited", ResourceExhausted("RATE_LIMITED", "slow down", retry_after=60))
    async with backends.worker(script) as worker:
        assert (await worker.ask("limited", expires=duration(5))).fate == turn_pb2.FATE_DEAD


async def test_out_of_retries_is_dead_lettered_with_all_that_is_known(backends: Backends) -> None:
    script = Scripted(retry=RetryPolicy(2, 0.05, 0.05))
    script.fails("broken", BUSY)
    async with backends.worker(script) as worker:
        before = time.time()
        status = await worker.ask("broken", message_id="m")
        (letter,) = await letters(worker.real_broker)

        assert (status.fate, status.error.reason, status.attempts) == (turn_pb2.FATE_DEAD, "MODEL_UNAVAILABLE", 3)
        assert (letter.message_id, letter.session, letter.pool) == ("m", key().path, "agents")
        assert (letter.reason, letter.error, letter.attempts) == ("MODEL_UNAVAILABLE", str(BUSY), 3)
        assert (letter.worker_id, letter.revision_id) == ("worker-0", "revision-1")
        assert before <= letter.first_failed <= letter.last_failed - 0.05
        assert Envelope.FromString(letter.body).content.text == "broken"
        assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE
        assert await worker.state() == "next;"
        assert (await worker.ask("broken", message_id="m")).fate == turn_pb2.FATE_DEAD, "the stored end"


async def test_what_is_not_retryable_is_given_up_at_once(backends: Backends) -> None:
    script = Scripted()
    script.fails("wrong", FailedPrecondition("CONTEXT_TOKENS", "too long"))
    async with backends.worker(script) as worker:
        status = await worker.ask("wrong")
        assert (status.fate, status.attempts) == (turn_pb2.FATE_DEAD, 1)
        assert worker.endings[-1].hopeless


async def test_an_attempt_past_its_deadline_is_stopped_and_tried_again(backends: Backends) -> None:
    script = Scripted(deadline=0.05, retry=RetryPolicy(1, 0.01, 0.01))
    script.gate("slow")
    async with backends.worker(script) as worker:
        status = await worker.ask("slow")
        assert (status.fate, status.error.reason, status.attempts) == (turn_pb2.FATE_DEAD, "TURN_DEADLINE", 2)


async def _cancels_itself(turn: TurnContext) -> str:
    raise asyncio.CancelledError


async def _exits(turn: TurnContext) -> str:
    raise SystemExit(3)


async def _side_by_side(turn: TurnContext) -> str:
    async def fail() -> None:
        raise FailedPrecondition("WRONG", "one of several")

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
        group.create_task(asyncio.sleep(60))
    return ""


def _raising(error: BaseException) -> Any:
    async def run(turn: TurnContext) -> str:
        raise error

    return run


@pytest.mark.parametrize(
    ("does", "reason", "attempts"),
    [
        (_raising(ValueError("no\nlines \ud800")), "TURN_RAISED", 2),
        (_raising(ValueError("x" * 100_000)), "TURN_RAISED", 2),
        (_raising(TimeoutError()), "TURN_RAISED", 2),
        (_cancels_itself, "TURN_RAISED", 2),
        (_exits, "TURN_RAISED", 2),
        (_side_by_side, "WRONG", 1),
    ],
    ids=["text", "long", "timeout", "cancelled", "exit", "group"],
)
async def test_whatever_a_turn_raises_ends_that_turn_alone(
    backends: Backends, does: Callable[..., Any], reason: str, attempts: int
) -> None:
    script = Scripted(retry=RetryPolicy(1, 0.01, 0.01), does={"bad": does})
    async with backends.worker(script) as worker:
        status = await worker.ask("bad")
        assert (status.fate, status.error.reason, status.attempts) == (turn_pb2.FATE_DEAD, reason, attempts)
        assert len(status.error.message) < 2000
        assert "\n" not in status.error.message
        assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE


async def test_a_reply_too_large_to_travel_is_refused(backends: Backends) -> None:
    async def talk(turn: TurnContext) -> str:
        return "x" * 300_000

    async with backends.worker(Scripted(does={"talk": talk})) as worker:
        status = await worker.ask("talk")
        assert (status.fate, status.error.reason) == (turn_pb2.FATE_DEAD, "PAYLOAD_TOO_LARGE")


class TestTooLate:
    async def test_a_message_that_expired_before_it_could_start_is_not_started(self, backends: Backends) -> None:
        script = Scripted()
        slow = script.gate("slow")
        async with backends.worker(script) as worker:
            await worker.send("slow")
            await slow.entered.wait()
            await worker.publish("late", "late", lasts=0.1)
            await asyncio.sleep(0.15)
            slow.open.set()
            status = await worker.end_of("late")
            assert (status.fate, status.error.reason, status.attempts) == (turn_pb2.FATE_EXPIRED, "EXPIRED", 0)
            assert [letter.reason for letter in await letters(worker.real_broker)] == ["EXPIRED"]

    async def test_one_that_began_does_not_expire(self, backends: Backends) -> None:
        script = Scripted(retry=RetryPolicy(3, 0.05, 0.05))
        script.fails("flaky", BUSY, times=1)
        async with backends.worker(script) as worker:
            worker.store_line.before["begin"] = lambda *_: asyncio.sleep(1.0)
            status = await worker.ask("flaky", expires=duration(1.0))
            assert (status.fate, status.attempts) == (turn_pb2.FATE_DONE, 2)

    async def test_a_stale_message_is_not_started(self, backends: Backends) -> None:
        async with backends.worker(Scripted()) as worker:
            stale = Envelope(
                id="old",
                target=key().ref(),
                number=Number(stream="theirs", sequence=1),
                kind=envelope_pb2.ENVELOPE_KIND_MESSAGE,
                content=Content(text="old"),
                first_sent=timestamp(time.time() - STALE_AFTER - 1),
            )
            await worker.real_broker.publish(stale)
            await until(lambda: worker.store_line.calls["commit"])
            status = await worker.end_of("old")
            assert (status.fate, status.error.reason) == (turn_pb2.FATE_EXPIRED, "STALE")


async def test_an_undecodable_body_is_dead_lettered_and_stops_nobody(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        broken = Envelope(id="x", target=key().ref(), kind=envelope_pb2.ENVELOPE_KIND_MESSAGE)
        await worker.real_broker.publish(broken)
        assert (await worker.ask("hello")).fate == turn_pb2.FATE_DONE
        await until(lambda: worker.broker_line.answered["dead_letter"])
        (letter,) = await letters(worker.real_broker)
        assert letter.reason == "UNDECODABLE"
        assert letter.body == broken.SerializeToString()


class TestUnknownTarget:
    async def test_it_waits_and_is_given_up(self, backends: Backends) -> None:
        async with backends.worker(None, order_timeout=0.2) as worker:
            status = await worker.ask("hello")
            assert (status.fate, status.error.reason) == (turn_pb2.FATE_DEAD, "UNKNOWN_TARGET")
            assert status.attempts == 0

    async def test_it_runs_when_a_revision_brings_it(self, backends: Backends) -> None:
        async with backends.worker(None) as worker:
            message_id = await worker.send("hello")
            await until(lambda: worker.store_line.calls["put"])
            worker.behaviour = Scripted()
            worker.host.revision_changed()
            assert (await worker.end_of(message_id)).fate == turn_pb2.FATE_DONE
