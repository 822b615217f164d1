"""One turn settles the messages that wait, in one commit; one that fails or is cancelled takes no others along."""

import asyncio
import time
from collections.abc import Callable

import pytest
from support.brokers import letters
from support.hosting import Backends, Worker, key, until
from support.scripted_behaviour import Gate, Scripted

from troupe.broker.retry import RetryPolicy
from troupe.chassis.errors import TroupeError
from troupe.dataplane.actors import handover
from troupe.dataplane.actors.behaviour import TurnContext, TurnResult
from troupe.v1 import turn_pb2
from troupe.v1.envelope_pb2 import Content

DONE = turn_pb2.FATE_DONE


class Batching(Scripted):
    """Takes batches. The first message, `hold`, holds all others back until `released`."""

    def __init__(self, most: int = 10, does: Callable[[TurnContext, list[str]], None] = lambda *_: None) -> None:
        super().__init__(max_batch=most)
        self.first, self.whole, self.does_to_all = self.gate("hold"), Gate(), does
        self.whole.open.set()
        self.batches: list[list[str]] = []

    async def run(self, turn: TurnContext) -> TurnResult:
        texts = [message.content.text for message in (turn.message, *turn.batch)]
        if texts == ["hold"]:
            return await super().run(turn)
        self.batches.append(texts)
        await self.whole(turn)
        self.does_to_all(turn, texts)
        state = turn.state + "".join(f"{text};" for text in texts).encode()
        replies = [Content(text=text.upper()) for text in texts]
        return TurnResult(replies[0], state=state, delta=b"batch", replies=replies[1:])

    async def waiting(self, worker: Worker, *texts: str) -> None:
        """These wait, each under its text as id."""
        await worker.send("hold", message_id="hold")
        await self.first.entered.wait()
        for text in texts:
            await worker.send(text, message_id=text)
        await until(lambda: worker.actor().backlog == len(texts) and not worker.actor().arrivals())

    def released(self) -> None:
        self.first.open.set()


def failing(*words: str) -> Callable[[TurnContext, list[str]], None]:
    def fail(_: TurnContext, texts: list[str]) -> None:
        for word in words:
            if word in texts:
                raise ValueError(f"{word} is poison")

    return fail


async def test_what_waits_is_settled_in_one_commit(backends: Backends) -> None:
    script = Batching()
    async with backends.worker(script) as worker, worker.conversation("hold", message_id="hold"):
        await script.first.entered.wait()
        async with worker.conversation("a", message_id="a") as a, worker.conversation("b", message_id="b") as b:
            await until(lambda: worker.actor().backlog == 2 and not worker.actor().arrivals())
            script.released()
            ends = [await a.end(), await b.end()]
        assert [end.completed.result.text for end in ends] == ["A", "B"]
        assert [each.kinds for each in (a, b)] == [["accepted", "started", "completed"]] * 2
        assert {end.completed.state_version for end in ends} == {2}
        assert worker.store_line.calls["commit"] == 2
        assert script.batches == [["a", "b"]]
        assert await worker.state() == "hold;a;b;"
        for message_id in ("a", "b"):
            status = await worker.end_of(message_id)
            assert (status.fate, status.result.text, status.attempts) == (DONE, message_id.upper(), 1)
        for end in ends:
            ledger = end.completed.ledger
            rows = sum(row.duration.ToNanoseconds() for row in ledger.rows)
            assert rows + ledger.residual.ToNanoseconds() == ledger.wall.ToNanoseconds()


async def test_it_takes_no_more_than_it_may(backends: Backends) -> None:
    script = Batching(most=3)
    async with backends.worker(script) as worker:
        await script.waiting(worker, *"abcde")
        script.released()
        assert (await worker.end_of("e")).fate == DONE
        assert script.batches == [["a", "b", "c"], ["d", "e"]]


async def test_a_poison_message_takes_no_others_with_it(backends: Backends) -> None:
    script = Batching(does=failing("poison"))
    script.retry = RetryPolicy(1, 0.01, 0.01)
    async with backends.worker(script) as worker:
        await script.waiting(worker, "a", "poison", "b")
        script.released()
        assert (await worker.end_of("b")).fate == DONE
        status = await worker.end_of("poison")
        assert (status.fate, status.failures) == (turn_pb2.FATE_DEAD, 2), "what the batch did is held against nobody"
        assert script.batches == [["a", "poison", "b"], ["a"], ["poison"], ["poison"], ["b"]]
        assert await worker.state() == "hold;a;b;"
        assert [letter.message_id for letter in await letters(worker.real_broker)] == ["poison"]


@pytest.mark.parametrize("tell", [True, False])
async def test_a_verb_for_one_of_them_lets_the_others_go_on(backends: Backends, tell: bool) -> None:
    script = Batching()
    script.whole.open.clear()
    async with backends.worker(script) as worker:
        await script.waiting(worker, *"abc")
        script.released()
        await script.whole.entered.wait()
        assert await worker.control("CANCEL", "b", tell=tell) == "APPLIED"
        if tell:
            await script.whole.left.wait()
        script.whole.open.set()
        assert (await worker.end_of("c")).fate == DONE
        assert (await worker.end_of("b")).fate == turn_pb2.FATE_CANCELLED
        assert script.batches == [["a", "b", "c"], ["a"], ["c"]]
        assert await worker.state() == "hold;a;c;"


async def test_one_that_is_paused_holds_back_what_is_behind_it(backends: Backends) -> None:
    script = Batching()
    script.whole.open.clear()
    async with backends.worker(script) as worker:
        await script.waiting(worker, *"abc")
        script.released()
        await script.whole.entered.wait()
        await worker.control("PAUSE", "b")
        script.whole.open.set()
        assert (await worker.end_of("a")).fate == DONE
        await worker.at_rest()
        assert await worker.state() == "hold;a;"
        await worker.control("RESUME", "b")
        assert (await worker.end_of("c")).fate == DONE
        assert await worker.state() == "hold;a;b;c;"


@pytest.mark.parametrize("what", ["keep", "suspend", "calling"])
async def test_it_has_no_calls(backends: Backends, what: str) -> None:
    refused: list[str] = []

    class Calling(Batching):
        async def run(self, turn: TurnContext) -> TurnResult:
            if turn.batch:
                try:
                    match what:
                        case "keep":
                            await turn.journal.keep({"start/x": b""}, starts=True)
                        case "suspend":
                            await turn.suspend(["x"])
                        case _:
                            with turn.journal.calling():
                                pass
                except TroupeError as error:
                    refused.append(error.reason)
            return await super().run(turn)

    script = Calling()
    async with backends.worker(script) as worker:
        await script.waiting(worker, "a", "b")
        script.released()
        assert (await worker.end_of("b")).fate == DONE
        assert refused == ["BATCH_HAS_NO_CALLS"]


async def test_a_reply_too_few_fails_it(backends: Backends) -> None:
    class Silent(Batching):
        async def run(self, turn: TurnContext) -> TurnResult:
            self.batches.append([turn.message.content.text])
            if turn.message.content.text == "hold":
                return await super().run(turn)
            return TurnResult(Content(text="one for all"))

    script = Silent()
    async with backends.worker(script) as worker:
        await script.waiting(worker, "a", "b")
        script.released()
        assert (await worker.end_of("b")).result.text == "one for all", "each by itself"


async def test_one_that_came_too_late_is_settled_as_expired(backends: Backends) -> None:
    script = Batching()
    async with backends.worker(script) as worker:
        await worker.send("hold", message_id="hold")
        await script.first.entered.wait()
        await worker.send("a", message_id="a")
        await worker.publish("late", "late", lasts=0.05)
        await worker.send("b", message_id="b")
        await until(lambda: worker.actor().backlog == 3 and not worker.actor().arrivals())
        await asyncio.sleep(0.05)
        script.released()
        assert (await worker.end_of("b")).fate == DONE
        assert (await worker.end_of("late")).fate == turn_pb2.FATE_EXPIRED
        assert script.batches == [["a"], ["b"]]


async def test_what_comes_again_while_it_runs_is_acked_with_it(backends: Backends) -> None:
    script = Batching()
    script.whole.open.clear()
    async with backends.worker(script) as worker:
        await script.waiting(worker, "a", "b")
        script.released()
        await script.whole.entered.wait()
        await worker.publish("b", "b")
        await until(lambda: worker.store_line.calls["put"] == 3)
        script.whole.open.set()
        assert (await worker.end_of("b")).fate == DONE
        assert script.batches == [["a", "b"]]
        assert await worker.state() == "hold;a;b;"


class TestDying:
    async def test_a_worker_that_dies_in_it_leaves_each_by_itself(self, backends: Backends) -> None:
        script = Batching()
        script.whole.open.clear()
        async with backends.worker(script) as worker:
            await script.waiting(worker, *"abc")
            script.released()
            await script.whole.entered.wait()
            await worker.kill()
        script.whole.open.set()
        async with backends.worker(script) as worker:
            assert (await worker.end_of("c")).fate == DONE
            assert script.batches == [["a", "b", "c"], ["a"], ["b"], ["c"]]
            assert await worker.state() == "hold;a;b;c;"

    async def test_it_goes_on_under_its_marks(self, backends: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(handover, "LOOK", 0.01)
        script = Batching()
        script.whole.open.clear()
        async with backends.several(script, 2) as (first, second):
            await script.waiting(first, *"abc")
            script.released()
            await script.whole.entered.wait()
            await first.release(second.owner.instance)
            await second.hold(first.owner.instance)
            await second.send("d", message_id="d")
            # The new owner has what comes next, and has looked at the marks again and again.
            await until(lambda: second.store_line.calls["put"] and second.store_line.calls["waiting"] > 3)
            assert script.batches == [["a", "b", "c"]]
            script.whole.open.set()
            assert (await second.end_of("d")).fate == DONE
            assert script.batches == [["a", "b", "c"], ["d"]]
            assert await second.state() == "hold;a;b;c;d;"

    async def test_one_taken_over_settles_nothing_any_more(self, backends: Backends) -> None:
        script = Batching()
        script.whole.open.clear()
        async with backends.several(script, 2) as (first, second):
            await script.waiting(first, *"abc")
            script.released()
            await script.whole.entered.wait()
            await first.release(second.owner.instance)
            await second.hold()
            await until(lambda: second.store_line.calls["take_over"] == 3)
            script.whole.open.set()
            assert (await second.end_of("c")).fate == DONE
            await until(lambda: not first.host.running)
            assert await second.state() == "hold;a;b;c;"
            assert sorted(script.batches[1:]) == [["a"], ["b"], ["c"]]

    async def test_a_worker_that_stops_puts_all_back(self, backends: Backends) -> None:
        script = Batching()
        script.whole.open.clear()
        async with backends.worker(script, drain_timeout=0.05) as worker:
            await script.waiting(worker, *"abc")
            script.released()
            await script.whole.entered.wait()
            before = time.monotonic()
        assert time.monotonic() - before < 5
        script.whole.open.set()
        async with backends.opened() as (_, store):
            await store.declare(1)
            inbox = (await store.load(key())).inbox
            assert [(entry.message_id, entry.starts, entry.running) for entry in inbox] == [
                (text, 0, None) for text in "abc"
            ]
        async with backends.worker(script) as worker:
            assert (await worker.end_of("c")).fate == DONE
            assert await worker.state() == "hold;a;b;c;"
