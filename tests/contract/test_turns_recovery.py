"""A worker that dies at any step of a turn: nothing is lost, nothing has its effect twice, innocents are unharmed."""

import asyncio

import pytest
from support.brokers import letters
from support.hosting import Backends, Worker, key, until
from support.scripted_behaviour import Scripted

from troupe.broker.retry import RetryPolicy
from troupe.chassis.errors import FailedPrecondition, Unavailable
from troupe.chassis.wire import duration
from troupe.dataplane.actors import runner
from troupe.dataplane.actors.behaviour import TurnContext
from troupe.dataplane.actors.endings import cancelled_record
from troupe.v1 import turn_pb2

STEPS = [
    ("before", "journal", 1),
    ("after", "journal", 1),
    ("before", "journal", 2),
    ("after", "journal", 2),
    ("after", "journal", 6),
    ("before", "commit", 1),
    ("after", "commit", 1),
]


def _cut_at(worker: Worker, when: str, call: str, time: int) -> asyncio.Event:
    """Nothing of the worker reaches the store from before, or after, its `time`-th call on; set once it is so."""
    reached = asyncio.Event()

    async def cut(*_: object) -> None:
        if worker.store_line.calls[call] == time:
            worker.store_line.cut = True
            reached.set()

    (worker.store_line.before if when == "before" else worker.store_line.after)[call] = cut
    return reached


@pytest.mark.parametrize(("when", "call", "time"), STEPS)
@pytest.mark.parametrize("road", ["fast", "inbox"])
async def test_effects_happen_once_wherever_the_worker_dies(
    backends: Backends, when: str, call: str, time: int, road: str
) -> None:
    script = Scripted()
    script.does["steps"] = script.steps
    first = script.gate("first")
    async with backends.worker(script) as worker:
        reached = _cut_at(worker, when, call, time + (call == "commit" and road == "inbox"))
        if road == "inbox":
            await worker.send("first")
        await worker.send("steps", message_id="m")
        await worker.send("after", message_id="last")
        if road == "inbox":
            await until(lambda: worker.store_line.calls["put"] >= 2)
            first.open.set()
        async with asyncio.timeout(10):
            await reached.wait()
        await worker.kill()
    del script.does["first"]
    async with backends.worker(script) as worker:
        assert (await worker.end_of("last")).fate == turn_pb2.FATE_DONE
        status = await worker.end_of("m")
        state = await worker.state()

    assert status.fate == turn_pb2.FATE_DONE
    assert state == ("first;" if road == "inbox" else "") + "steps;after;"
    # An effect whose result was not journaled yet may be repeated; this one's tool is idempotent by its step.
    assert set(script.effects) == {"m one", "m two", "m three"}
    repeated = {effect for effect, count in script.effects.items() if count > 1}
    assert repeated <= ({"m one"} if (call, time) == ("journal", 2) and when == "before" else set())
    assert script.most_at_once["s"] == 1


async def test_a_message_that_kills_its_worker_is_given_up_and_innocents_run(backends: Backends) -> None:
    script = Scripted()
    poison = script.gate("poison")
    kills = 0
    async with backends.worker(script) as worker:
        await worker.send("poison", "bad", "poison")
        for number in range(64):
            await worker.send("hello", f"good-{number}", f"m{number}")
        await poison.entered.wait()
        await worker.kill()
    while kills < 8:
        poison.entered.clear()
        async with backends.worker(script) as worker:
            ended = asyncio.create_task(worker.end_of("poison", "bad"))
            entered = asyncio.create_task(poison.entered.wait())
            done, _ = await asyncio.wait([ended, entered], return_when=asyncio.FIRST_COMPLETED)
            entered.cancel()
            if ended in done:
                status = await ended
                for number in range(64):
                    assert (await worker.end_of(f"m{number}", f"good-{number}")).fate == turn_pb2.FATE_DONE
                (letter,) = await letters(worker.real_broker)
                break
            ended.cancel()
            kills += 1
            await worker.kill()

    assert (status.fate, status.error.reason) == (turn_pb2.FATE_DEAD, "WORKER_KILLED")
    assert kills == 3
    assert (letter.reason, letter.attempts) == ("WORKER_KILLED", 3)


@pytest.mark.parametrize(
    ("line", "when", "call"),
    [
        ("broker", "before", "dead_letter"),
        ("broker", "after", "dead_letter"),
        ("store", "before", "commit"),
        ("store", "after", "commit"),
    ],
)
async def test_a_death_between_letter_record_and_ack_loses_nothing(
    backends: Backends, line: str, when: str, call: str
) -> None:
    script = Scripted()
    script.fails("broken", FailedPrecondition("BROKEN", "never works"))
    async with backends.worker(script) as worker:
        sent, reached = asyncio.Event(), asyncio.Event()

        async def cut(*_: object) -> None:
            await sent.wait()  # the confirm comes over a line that is cut here
            worker.broker_line.cut = worker.store_line.cut = True
            reached.set()

        where = worker.broker_line if line == "broker" else worker.store_line
        (where.before if when == "before" else where.after)[call] = cut
        await worker.send("broken", message_id="m")
        sent.set()
        async with asyncio.timeout(10):
            await reached.wait()
        await worker.kill()
    async with backends.worker(script) as worker:
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_DEAD
        assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE
        found = await letters(worker.real_broker)
        assert {letter.message_id for letter in found} == {"m"}
        assert len(found) == (2 if (call, when) in (("dead_letter", "after"), ("commit", "before")) else 1)
        assert (await worker.real_broker.depth("troupe.v1.mailbox.0")).messages == 0
        assert await worker.state() == "next;"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_death_between_inbox_and_ack_loses_nothing_and_repeats_nothing(backends: Backends, when: str) -> None:
    script = Scripted()
    script.gate("slow")
    async with backends.worker(script) as worker:
        sent, reached = asyncio.Event(), asyncio.Event()

        async def cut(*_: object) -> None:
            await sent.wait()  # confirms come over a line that is cut here
            worker.broker_line.cut = worker.store_line.cut = True
            reached.set()

        await worker.send("slow")
        (worker.store_line.before if when == "before" else worker.store_line.after)["put"] = cut
        ids = [await worker.send(f"m{number}") for number in range(3)]
        sent.set()
        async with asyncio.timeout(10):
            await reached.wait()
        await worker.kill()
    script.does.clear()
    async with backends.worker(script) as worker:
        for message_id in ids:
            assert (await worker.end_of(message_id)).fate == turn_pb2.FATE_DONE
        assert await worker.state() == "slow;m0;m1;m2;"


async def test_stops_in_the_middle_of_a_turn_are_not_held_against_its_message(backends: Backends) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.worker(script) as worker:
        await worker.send("slow", message_id="m")
        await slow.entered.wait()
        await worker.kill()
    # When its worker is stopped, well and more often than a message that kills its worker may start
    for _ in range(5):
        slow.entered.clear()
        async with backends.worker(script, drain_timeout=0):
            await asyncio.wait_for(slow.entered.wait(), 10)
    # Then it still runs; the first start, on the fast path, died uncounted
    slow.open.set()
    async with backends.worker(script) as worker:
        status = await worker.end_of("m")
    assert (status.fate, status.attempts) == (turn_pb2.FATE_DONE, 6)


async def test_two_suspects_never_run_at_once(backends: Backends) -> None:
    script = Scripted()
    gates = [script.gate(f"g{number}") for number in range(3)]
    for _ in range(2):
        async with backends.worker(script) as worker:
            if not script.started:
                for number in range(3):
                    await worker.send(f"g{number}", f"s{number}", f"m{number}")
            await until(lambda: all(gate.entered.is_set() for gate in gates))
            await worker.kill()
        for gate in gates:
            gate.entered.clear()
    script.started.clear()
    async with backends.worker(script, drain_timeout=0) as worker:
        await until(lambda: script.started)
        assert (await worker.ask("hello", "free")).fate == turn_pb2.FATE_DONE
        assert sum("g" in text.split(" ")[1] for text in script.started) == 1


async def test_what_waited_runs_after_a_restart_in_order(backends: Backends) -> None:
    script = Scripted()
    script.gate("slow")
    async with backends.worker(script) as worker:
        await worker.send("slow")
        ids = [await worker.send(f"m{number}") for number in range(50)]
        await until(lambda: worker.store_line.calls["put"] > 20)
        await worker.kill()
    script.does.clear()
    async with backends.worker(script) as worker:
        assert (await worker.end_of(ids[-1])).fate == turn_pb2.FATE_DONE
        assert await worker.state() == "slow;" + "".join(f"m{number};" for number in range(50))


async def test_a_retry_outlives_its_worker(backends: Backends) -> None:
    script = Scripted(retry=RetryPolicy(3, 0.3, 0.3))
    script.fails("flaky", Unavailable("AWAY", "gone"), times=1)
    async with backends.worker(script) as worker:
        await worker.send("flaky", message_id="m")
        await until(lambda: worker.store_line.calls["retry"])
        await until(lambda: worker.actor().turn is None)
        await worker.kill()
    async with backends.worker(script) as worker:
        status = await worker.end_of("m")
        assert (status.fate, status.attempts) == (turn_pb2.FATE_DONE, 2)
        assert script.attempts == [0, 1]


class TestLongTurns:
    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runner, "LONG_TURN", 0.05)

    async def test_its_delivery_is_acked_and_it_ends_once(self, backends: Backends) -> None:
        script = Scripted()
        slow = script.gate("slow")
        async with backends.worker(script) as worker:
            await worker.send("slow", message_id="m")
            await slow.entered.wait()
            await until(lambda: worker.actor().turn and worker.actor().turn.waiting)  # type: ignore[union-attr]
            assert (await worker.real_broker.depth("troupe.v1.mailbox.0")).messages == 0
            assert (await worker.load()).inbox[0].running
            assert (await worker.end_of("m", wait=0)).fate == turn_pb2.FATE_RUNNING
            slow.open.set()
            assert (await worker.end_of("m")).attempts == 1
            assert (await worker.load()).inbox == []

    async def test_after_a_death_it_is_another_attempt_and_not_too_late(self, backends: Backends) -> None:
        script = Scripted()
        slow = script.gate("slow")
        async with backends.worker(script) as worker:
            await worker.send("slow", message_id="m", expires=duration(1.0))
            await slow.entered.wait()
            await until(lambda: worker.actor().turn and worker.actor().turn.waiting)  # type: ignore[union-attr]
            await worker.kill()
        await asyncio.sleep(1.0)
        script.does.clear()
        async with backends.worker(script) as worker:
            status = await worker.end_of("m")
            assert (status.fate, status.attempts) == (turn_pb2.FATE_DONE, 2)
            assert script.attempts == [0, 1]

    async def test_it_fails_and_is_tried_again(self, backends: Backends) -> None:
        script = Scripted()

        async def fail_late(turn: TurnContext) -> str:
            if turn.attempt == 0:
                await asyncio.sleep(0.15)
                raise Unavailable("AWAY", "gone")
            return "fine"

        script.does["slow"] = fail_late
        async with backends.worker(script) as worker:
            assert (await worker.ask("slow")).attempts == 2
            assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE


class TestAnotherOwner:
    async def test_a_fenced_owner_changes_nothing_and_lets_go(self, backends: Backends) -> None:
        script = Scripted()
        slow = script.gate("slow")
        async with backends.worker(script) as worker:
            await worker.ask("before")
            await worker.send("slow", message_id="m")
            await slow.entered.wait()
            newer = type(worker.owner)(0, worker.owner.epoch + 1, "another")
            await worker.real_store.claim(newer)
            slow.open.set()
            await until(lambda: worker.host.owner(0) is None)
            assert await worker.state() == "before;"
            assert (await worker.end_of("m", wait=0)).fate == turn_pb2.FATE_UNSEEN
            assert worker.host.hot == 0
            await worker.host.hold([type(newer)(0, newer.epoch + 1, "instance-1")])
            assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE
            assert await worker.state() == "before;slow;"

    async def test_a_version_that_changed_makes_the_turn_run_again(self, backends: Backends) -> None:
        script = Scripted()
        slow = script.gate("slow")
        async with backends.worker(script) as worker:
            await worker.ask("before")
            await worker.send("slow", message_id="m")
            await slow.entered.wait()
            await worker.real_store.delete(worker.owner, key(), {}, 0.0)
            slow.open.set()
            assert (await worker.end_of("m")).fate == turn_pb2.FATE_DONE
            assert await worker.state() == "slow;"
            assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE
            assert script.most_at_once["s"] == 1

    async def test_a_deletion_that_comes_late_leaves_no_state(self, backends: Backends) -> None:
        """Given a message that a deletion has settled while it ran, when its own end changes nothing, then what comes
        next finds the session as the deletion left it."""
        script = Scripted()
        script.fails("fails", FailedPrecondition("NO", "no"))
        async with backends.worker(script) as worker:
            await worker.ask("before")

            async def delete(*_: object) -> None:
                worker.store_line.before.clear()
                record = cancelled_record(key(), "m", b"", 1, 0.0)
                await worker.real_store.delete(worker.owner, key(), {"m": record}, 0.0)

            worker.store_line.before["commit"] = delete
            await worker.ask("fails", message_id="m")
            assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE
            assert await worker.state() == "next;"
