"""CANCEL takes back what the turn's calls have done, once each, newest first; KILL does not."""

import asyncio

import pytest
from support.brokers import letters
from support.dead_letter_desk import EVERY, at_once, outcomes, whole
from support.hosting import SOON, Backends, until
from support.scripted_behaviour import Gate, Scripted

from troupe.broker.port import AGENTS
from troupe.broker.retry import RetryPolicy
from troupe.chassis.errors import Unavailable
from troupe.dataplane.actors import handover
from troupe.dataplane.actors.behaviour import TurnContext
from troupe.dataplane.actors.outcome import MAX_STARTS
from troupe.dataplane.dead_letters.letters import DeadLetters
from troupe.v1 import turn_pb2

CALLS = ("one", "two")


class Undoing:
    """Two calls with an effect each, then a gate; and the taking back of those that have a result, with a gate of its
    own before the last."""

    def __init__(self) -> None:
        self.script = Scripted(does={"calls": self.calls}, takes_back=self.take_back)
        self.gate, self.last = Gate(), Gate()
        self.last.open.set()
        self.taken_back: list[str] = []

    async def calls(self, turn: TurnContext) -> str:
        for call in CALLS:
            if f"result/{call}" not in turn.journal.kept:
                await turn.journal.keep({f"start/{call}": b""}, starts=True)
                self.script.effects[call] += 1
                await turn.journal.keep({f"result/{call}": b""}, starts=False)
        return await self.gate(turn)

    async def take_back(self, turn: TurnContext) -> None:
        for call in reversed(CALLS):
            if f"result/{call}" not in turn.journal.kept or f"undone/{call}" in turn.journal.kept:
                continue
            if call == CALLS[0]:
                await self.last(turn)
            await turn.journal.keep({f"undoing/{call}": b""}, starts=True, compensates=True)
            self.taken_back.append(call)
            await turn.journal.keep({f"undone/{call}": b""}, starts=False)


BOTH = ["two", "one"]


async def test_a_cancelled_turn_takes_back_what_it_did_newest_first(backends: Backends) -> None:
    undoing = Undoing()
    async with backends.worker(undoing.script) as worker, worker.conversation("calls", message_id="m") as listener:
        await undoing.gate.entered.wait()
        assert await worker.control("CANCEL", "m") == "APPLIED"
        assert (await listener.end()).failed.fate == turn_pb2.FATE_CANCELLED
        assert undoing.taken_back == BOTH
        assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE
        assert await worker.state() == "next;"
        assert await letters(worker.real_broker) == []


async def test_a_result_whose_write_was_under_way_is_taken_back_too(backends: Backends) -> None:
    """The store has it, and the attempt is stopped before it hears so."""
    undoing, written = Undoing(), asyncio.Event()
    async with backends.worker(undoing.script) as worker:

        async def hold(*_: object) -> None:
            if undoing.script.effects["two"]:
                written.set()
                await asyncio.Event().wait()

        worker.store_line.after["journal"] = hold
        await worker.send("calls", message_id="m")
        await written.wait()
        worker.store_line.after.clear()
        await worker.control("CANCEL", "m")
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_CANCELLED
        assert undoing.taken_back == BOTH


async def test_a_killed_turn_takes_nothing_back(backends: Backends) -> None:
    undoing = Undoing()
    async with backends.worker(undoing.script) as worker:
        await worker.send("calls", message_id="m")
        await undoing.gate.entered.wait()
        assert await worker.control("KILL", "m") == "APPLIED"
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_CANCELLED
        assert undoing.taken_back == []


@pytest.mark.parametrize("tell", [True, False])
async def test_a_kill_stops_the_taking_back(backends: Backends, tell: bool) -> None:
    undoing = Undoing()
    undoing.last.open.clear()
    async with backends.worker(undoing.script) as worker:
        await worker.send("calls", message_id="m")
        await undoing.gate.entered.wait()
        await worker.control("CANCEL", "m")
        await undoing.last.entered.wait()
        heeded = worker.store_line.calls["verbs"]
        await worker.control("CANCEL", "m")
        await until(lambda: worker.store_line.calls["verbs"] > heeded)
        await worker.ask("hello", "another")
        assert not undoing.last.left.is_set(), "another CANCEL does not"
        assert await worker.control("KILL", "m", tell=tell) == "APPLIED"
        if not tell:
            undoing.last.open.set()
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_CANCELLED
        assert await letters(worker.real_broker) == [], "nobody asks for more to be taken back"
        assert undoing.taken_back == ["two"]


async def test_one_that_waits_with_a_journal_takes_back_too(backends: Backends) -> None:
    undoing = Undoing()
    script = undoing.script
    script.retry = RetryPolicy(3, 60, 60)
    undoing.gate.open.set()

    async def fail_after(turn: TurnContext) -> str:
        await undoing.calls(turn)
        raise Unavailable("AWAY", "gone")

    script.does["calls"] = fail_after
    async with backends.worker(script) as worker, worker.conversation("calls", message_id="m") as listener:
        await until(lambda: "sealed" in listener.kinds)
        assert await worker.control("CANCEL", "m") == "APPLIED"
        assert (await listener.end()).failed.fate == turn_pb2.FATE_CANCELLED
        assert undoing.taken_back == BOTH
        assert script.attempts == [0]


async def test_one_at_rest_takes_back_and_one_without_a_journal_is_settled_at_once(backends: Backends) -> None:
    undoing = Undoing()
    undoing.gate.open.set()
    async with backends.worker(undoing.script) as worker:

        async def pause(*_: object) -> None:
            await worker.control("PAUSE", "m", tell=False)

        worker.store_line.before["commit"] = pause
        await worker.send("calls", message_id="m")
        await worker.at_rest()
        worker.store_line.before.clear()
        await worker.send("behind", message_id="n")
        await until(lambda: worker.actor().backlog == 2 and not worker.actor().arrivals())
        assert await worker.control("CANCEL", "n") == "APPLIED"
        assert (await worker.end_of("n", wait=0)).fate == turn_pb2.FATE_CANCELLED
        assert undoing.taken_back == []
        assert await worker.control("CANCEL", "m") == "APPLIED"
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_CANCELLED
        assert undoing.taken_back == BOTH


async def test_a_worker_that_dies_in_between_leaves_the_rest_to_the_next(backends: Backends) -> None:
    undoing = Undoing()
    undoing.last.open.clear()
    async with backends.worker(undoing.script) as worker:
        await worker.send("calls", message_id="m")
        await undoing.gate.entered.wait()
        await worker.control("CANCEL", "m")
        await undoing.last.entered.wait()
        await worker.kill()
    undoing.last.open.set()
    async with backends.worker(undoing.script) as worker:
        assert (await worker.end_of("m")).fate == turn_pb2.FATE_CANCELLED
        assert undoing.taken_back == BOTH


@pytest.mark.parametrize("how", ["raises", "hangs"])
async def test_what_fails_is_listed_and_the_message_is_cancelled_all_the_same(backends: Backends, how: str) -> None:
    undoing = Undoing()

    async def fail(turn: TurnContext) -> None:
        if how == "raises":
            raise ValueError("no way back")
        await asyncio.Event().wait()

    undoing.script.takes_back = fail
    async with backends.worker(undoing.script) as worker:
        await worker.send("calls", message_id="m")
        await undoing.gate.entered.wait()
        undoing.script.deadline = 0.1
        await worker.control("CANCEL", "m")
        end = await worker.end_of("m")
        assert (end.fate, end.error.reason) == (turn_pb2.FATE_CANCELLED, "CANCELLED")
        (letter,) = await letters(worker.real_broker)
        assert (letter.message_id, letter.reason, letter.error) == ("m", "NOT_COMPENSATED", end.error.message)
        assert {"raises": "no way back", "hangs": "TimeoutError"}[how] in letter.error
        assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE
        # And to redrive all that there is neither does it nor drops what tells of it.
        desk = DeadLetters(worker.real_broker, worker.real_store, worker.clock, ready=at_once, whole=whole)
        redriven = desk.redrive(AGENTS, EVERY, limit=0, rate=0.0, dry_run=False)
        assert outcomes([one async for one in redriven]) == ["NOT_COMPENSATED"]
        assert await letters(worker.real_broker) == [letter]


async def test_what_kills_its_workers_is_listed_and_not_taken_back(backends: Backends) -> None:
    undoing = Undoing()
    undoing.last.open.clear()
    for died in range(MAX_STARTS + 1):
        undoing.last.entered.clear()
        async with backends.worker(undoing.script) as worker:
            if died == 0:
                await worker.send("calls", message_id="m")
                await undoing.gate.entered.wait()
                await worker.control("CANCEL", "m")
            await undoing.last.entered.wait()
            await worker.kill()
    async with backends.worker(undoing.script) as worker:
        end = await worker.end_of("m")
        assert end.fate == turn_pb2.FATE_CANCELLED
        (letter,) = await letters(worker.real_broker)
        assert (letter.message_id, letter.reason, letter.error) == ("m", "NOT_COMPENSATED", end.error.message)
        assert f"started {MAX_STARTS} times and never ended" in letter.error
        assert undoing.taken_back == ["two"]
        assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE


async def test_a_turn_handed_over_takes_back_under_its_mark(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "LOOK", 0.01)
    undoing = Undoing()
    undoing.last.open.clear()
    async with backends.several(undoing.script, 2) as (first, second):
        await first.send("calls", message_id="m")
        await undoing.gate.entered.wait()
        await first.control("CANCEL", "m")
        await undoing.last.entered.wait()
        await first.release(second.owner.instance)
        await second.hold(first.owner.instance)
        later = await second.send("later")
        await until(lambda: second.store_line.calls["put"] and second.store_line.calls["waiting"] > 3)
        undoing.last.open.set()
        assert (await second.end_of(later)).fate == turn_pb2.FATE_DONE
        assert (await second.end_of("m")).fate == turn_pb2.FATE_CANCELLED
        assert undoing.taken_back == BOTH


async def test_one_that_is_to_take_back_as_its_shard_is_handed_over_does_so_at_the_new_owner(
    backends: Backends,
) -> None:
    undoing = Undoing()
    undoing.script.retry = RetryPolicy(3, 60, 60)

    async def fail_after(turn: TurnContext) -> str:
        undoing.gate.open.set()
        await undoing.calls(turn)
        raise Unavailable("AWAY", "gone")

    undoing.script.does["calls"] = fail_after
    async with backends.several(undoing.script, 2) as (first, second):
        starts, released = asyncio.Event(), asyncio.Event()

        async def hold(*_: object) -> None:
            starts.set()
            await released.wait()

        first.store_line.after["begin"] = hold
        async with first.conversation("calls", message_id="m") as listener:
            await until(lambda: "sealed" in listener.kinds)
            await first.control("CANCEL", "m")
            await starts.wait()
            undoing.last.open.clear()
            releasing = asyncio.create_task(first.release(second.owner.instance))
            await until(lambda: (turn := first.actor().turn) is not None and turn.called_off)
            released.set()
            await asyncio.wait_for(releasing, SOON)
            assert undoing.taken_back == []
            await second.hold(first.owner.instance)
            undoing.last.open.set()
            assert (await second.end_of("m")).fate == turn_pb2.FATE_CANCELLED
            assert undoing.taken_back == BOTH


async def test_a_verb_reaches_a_turn_that_goes_on_under_its_mark(backends: Backends) -> None:
    undoing = Undoing()
    async with backends.several(undoing.script, 2) as (first, second):
        await first.send("calls", message_id="m")
        await undoing.gate.entered.wait()
        await first.release(second.owner.instance)
        await second.hold(first.owner.instance)
        await first.control("CANCEL", "m")
        assert (await second.end_of("m")).fate == turn_pb2.FATE_CANCELLED
        assert undoing.taken_back == BOTH
