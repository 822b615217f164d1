"""A session reminds itself: once, again and again, across workers, and not of what it has forgotten."""

import time
from dataclasses import replace

import pytest
from support.brokers import letters
from support.hosting import SOON, Backends, key, until
from support.scripted_behaviour import Scripted

from troupe.broker.retry import RetryPolicy
from troupe.chassis.wire import seconds
from troupe.dataplane.actors.behaviour import Remind, TurnContext, TurnResult
from troupe.v1 import turn_pb2
from troupe.v1.envelope_pb2 import Content, Envelope


class Reminding(Scripted):
    """`remind NAME AFTER EVERY` sets a reminder, `forget NAME` takes it back. Keeps the occurrences."""

    def __init__(self) -> None:
        super().__init__(retry=RetryPolicy(0, 0.01, 0.01))
        self.wishes: list[Remind] = []
        self.occurrences: list[Envelope] = []
        self.times: list[float] = []

    async def run(self, turn: TurnContext) -> TurnResult:
        if turn.message.reminder:
            self.occurrences.append(turn.message)
            self.times.append(time.time())
        result = await super().run(turn)
        match turn.message.content.text.split():
            case ["remind", name, after, every]:
                wish = Remind(name, time.time() + float(after), float(every), Content(text=f"ring {name}"))
                self.wishes.append(wish)
                return replace(result, remind=[wish])
            case ["forget", name]:
                return replace(result, forget_reminders=[name])
            case _:
                return result


async def test_it_comes_when_it_is_due_as_a_message_of_the_session(backends: Backends) -> None:
    script = Reminding()
    async with backends.worker(script) as worker:
        await worker.ask("remind tea 0.2 0", message_id="m")
        await until(lambda: script.occurrences)
        (ring,), (wish,) = script.occurrences, script.wishes
        assert wish.due <= script.times[0] <= wish.due + SOON
        assert (ring.content.text, ring.reminder, ring.number.sequence) == ("ring tea", "tea", 1)
        assert ring.id == f"{ring.number.stream}/1"
        assert ring.number.stream.startswith("reminder/tea/")
        assert seconds(ring.first_sent) == pytest.approx(wish.due, abs=0.001)
        assert ring.correlation_id == "m"
        assert (await worker.end_of(ring.id)).fate == turn_pb2.FATE_DONE
        assert await worker.state() == "remind tea 0.2 0;ring tea;"


async def test_it_comes_however_late(backends: Backends) -> None:
    """To a fleet that was down for a weekend, say."""
    script = Reminding()
    async with backends.worker(script) as worker:
        await worker.ask(f"remind tea {-3 * 86400} 0")
        await until(lambda: script.occurrences)
        assert (await worker.end_of(script.occurrences[0].id)).fate == turn_pb2.FATE_DONE


async def test_it_comes_again_and_again_until_it_is_forgotten(backends: Backends) -> None:
    script = Reminding()
    async with backends.worker(script) as worker:
        await worker.ask("remind beat 0.05 0.05")
        await until(lambda: len(script.occurrences) >= 3)
        await worker.ask("forget beat")
        count = len(script.occurrences)
        streams = {ring.number.stream for ring in script.occurrences}
        assert len(streams) == 1
        assert [ring.number.sequence for ring in script.occurrences] == list(range(1, count + 1))
        summary = await worker.real_store.summary(key())
        assert summary is not None
        assert summary.scheduled == 0


async def test_one_that_is_set_anew_comes_at_the_new_time(backends: Backends) -> None:
    script = Reminding()
    async with backends.worker(script) as worker:
        await worker.ask("remind tea 3600 0")
        await worker.ask("remind tea 0.1 0")
        await until(lambda: script.occurrences, timeout=SOON)


async def test_no_other_comes_while_one_waits(backends: Backends) -> None:
    script = Reminding()
    slow = script.gate("slow")
    async with backends.worker(script) as worker:
        await worker.ask("remind beat 0.05 0.05")
        await worker.send("slow")
        await slow.entered.wait()
        seen = len(script.occurrences)
        await until(lambda: worker.store_line.calls["due"] >= 3)
        inbox = (await worker.load()).inbox
        assert sum(entry.number.stream.startswith("reminder/") for entry in inbox) <= 1
        slow.open.set()
        await until(lambda: len(script.occurrences) >= seen + 3)


async def test_one_that_fails_does_not_stop_those_behind_it(backends: Backends) -> None:
    script = Reminding()
    script.fails("ring", ValueError("no"), times=1)
    async with backends.worker(script) as worker:
        await worker.ask("remind beat 0.05 0.05")
        await until(lambda: len(script.occurrences) >= 3)
        (letter,) = await letters(worker.real_broker)
        assert letter.message_id == script.occurrences[0].id
        assert Envelope.FromString(letter.body).number.sequence == 1


async def test_a_worker_that_dies_leaves_it_to_the_next(backends: Backends) -> None:
    script = Reminding()
    async with backends.worker(script) as worker:
        due = time.time() + 0.3
        await worker.ask("remind tea 0.3 0")
        await worker.kill()
    async with backends.worker(script):
        await until(lambda: script.occurrences)
        assert script.times[0] >= due


async def test_a_turn_that_fails_sets_none(backends: Backends) -> None:
    script = Reminding()
    script.fails("remind", ValueError("no"))
    async with backends.worker(script) as worker:
        assert (await worker.ask("remind tea 0 0")).fate == turn_pb2.FATE_DEAD
        assert (await worker.ask("hello")).fate == turn_pb2.FATE_DONE
        summary = await worker.real_store.summary(key())
        assert summary is not None
        assert summary.scheduled == 0
