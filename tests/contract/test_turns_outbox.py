"""What turns send: with the commit or not at all, once, in order, whatever happens to worker and broker meanwhile."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from support.hosting import Backends, Worker, key, until
from support.scripted_behaviour import Scripted

from troupe.broker.port import NotSent
from troupe.chassis.errors import TroupeError, Unavailable
from troupe.dataplane.actors.behaviour import Send, TurnContext, TurnResult
from troupe.v1 import turn_pb2
from troupe.v1.envelope_pb2 import Content, Envelope


class Sender(Scripted):
    """`tell SESSION COUNT` sends so many numbered messages to the session."""

    async def run(self, turn: TurnContext) -> TurnResult:
        result = await super().run(turn)
        word, *rest = turn.message.content.text.split(" ")
        if word != "tell":
            return result
        target, count = rest[0], int(rest[1])
        sends = [Send(key(target), Content(text=f"{turn.message.id}.{number}")) for number in range(count)]
        return TurnResult(result.reply, result.state, result.delta, sends=sends)


def _told(message_id: str, count: int) -> str:
    return "".join(f"{message_id}.{number};" for number in range(count))


async def _is(worker: Worker, session: str, state: str) -> None:
    async with asyncio.timeout(10):
        while await worker.state(session) != state:  # noqa: ASYNC110 - it is the store that is waited for
            await asyncio.sleep(0.01)


async def test_what_a_turn_sends_arrives_in_order_across_turns(backends: Backends) -> None:
    async with backends.worker(Sender()) as worker:
        for number in range(5):
            await worker.send("tell b 7", "a", f"m{number}")
        await _is(worker, "b", "".join(_told(f"m{number}", 7) for number in range(5)))
        await until(lambda: worker.actor("a").idle)
        assert (await worker.load("a")).outbox == []


async def test_a_session_sends_to_itself(backends: Backends) -> None:
    async with backends.worker(Sender()) as worker:
        await worker.send("tell a 2", "a", "m")
        await _is(worker, "a", "tell a 2;m.0;m.1;")


async def test_a_turn_that_fails_sends_nothing_and_one_that_is_tried_again_sends_once(backends: Backends) -> None:
    script = Sender()
    script.fails("tell", Unavailable("AWAY", "gone"), times=2)
    async with backends.worker(script) as worker:
        assert (await worker.ask("tell b 1", "a", "m")).attempts == 3
        await _is(worker, "b", "m.0;")
        assert worker.broker_line.calls["publish_many"] == 1


async def test_the_message_says_where_it_comes_from_and_what_it_belongs_to(backends: Backends) -> None:
    seen: list[Envelope] = []

    class Watching(Sender):
        async def run(self, turn: TurnContext) -> TurnResult:
            seen.append(turn.message)
            return await super().run(turn)

    async with backends.worker(Watching()) as worker:
        await worker.send("tell b 1", "a", "m")
        await _is(worker, "b", "m.0;")
    assert seen[1].source == key("a").ref()
    assert seen[1].correlation_id == "m"
    assert seen[1].expires.seconds - seen[1].first_sent.seconds == 24 * 3600


async def test_what_the_broker_refuses_is_tried_again_and_holds_up_nobody_else(backends: Backends) -> None:
    async with backends.worker(Sender()) as worker:
        refusals = 3

        async def refuse(envelopes: Sequence[Envelope]) -> None:
            nonlocal refusals
            if envelopes[0].source.session == "a" and refusals:
                refusals -= 1
                raise NotSent("BLOCKED", "the broker takes nothing now")

        worker.broker_line.before["publish_many"] = refuse
        await worker.send("tell b 2", "a", "m")
        await worker.send("tell d 2", "c", "n")
        await _is(worker, "d", _told("n", 2))
        assert worker.actor("a").idle is False, "a session that has something to send stays in memory"
        await _is(worker, "b", _told("m", 2))
        assert refusals == 0


async def test_one_of_a_stream_is_on_its_way_at_a_time(backends: Backends) -> None:
    async with backends.worker(Sender()) as worker:
        sizes = []

        async def note(envelopes: Sequence[Envelope]) -> None:
            streams = [envelope.number.stream for envelope in envelopes]
            assert len(set(streams)) == len(streams)
            sizes.append(len(envelopes))

        worker.broker_line.before["publish_many"] = note
        await worker.send("tell b 3", "a", "m")
        await _is(worker, "b", _told("m", 3))
        assert sizes == [1, 1, 1]


async def test_a_worker_that_dies_before_it_published_leaves_it_to_the_next(backends: Backends) -> None:
    async with backends.worker(Sender()) as worker:
        never = asyncio.Event()

        async def hang(envelopes: Sequence[Envelope]) -> None:
            await never.wait()

        worker.broker_line.before["publish_many"] = hang
        await worker.ask("tell b 3", "a", "m")
        await until(lambda: worker.broker_line.calls["publish_many"])
        await worker.kill()
    async with backends.worker(Sender()) as worker:
        await _is(worker, "b", _told("m", 3))
        await until(lambda: worker.actor("a").idle)
        assert (await worker.load("a")).outbox == []


async def test_a_worker_that_dies_between_confirm_and_strike_sends_again_and_it_counts_once(
    backends: Backends,
) -> None:
    async with backends.worker(Sender()) as worker:
        reached = asyncio.Event()

        async def cut(*_: object) -> None:
            worker.store_line.cut = True
            reached.set()

        worker.store_line.before["strike"] = cut
        await worker.ask("tell b 2", "a", "m")
        await reached.wait()
        await worker.kill()
    async with backends.worker(Sender()) as worker:
        await _is(worker, "b", _told("m", 2))
        # Then the stream goes on where it was
        await worker.send("tell b 1", "a", "n")
        await _is(worker, "b", _told("m", 2) + _told("n", 1))


async def test_a_session_taken_over_sends_what_it_owes_before_its_next_turn(backends: Backends) -> None:
    script = Sender()
    async with backends.several(script, 2) as (first, second):
        let = asyncio.Event()

        async def hold_up(envelopes: Sequence[Envelope]) -> None:
            await let.wait()

        first.broker_line.before["publish_many"] = second.broker_line.before["publish_many"] = hold_up
        await first.ask("tell b 1", "a", "m")
        await first.host.hold([])
        second.owner = replace(second.owner, epoch=first.owner.epoch + 1)
        await second.hold()
        await second.send("hello", "a", "next")
        await until(lambda: second.store_line.calls["put"])
        assert script.started == ["a: tell b 1"]
        let.set()
        assert (await second.end_of("next", "a")).fate == turn_pb2.FATE_DONE
        await _is(second, "b", "m.0;")


async def test_a_refusal_that_is_an_answer_is_the_same(backends: Backends) -> None:
    async with backends.worker(Sender()) as worker:
        real = worker.real_broker.publish_many
        answers = [Unavailable("LOST", "the confirm did not come")]

        async def publish_many(envelopes: Sequence[Envelope], pool: str = "") -> Sequence[TroupeError | None]:
            outcomes = await real(envelopes, pool)
            return [answers.pop() if answers else outcome for outcome in outcomes]

        worker.broker_line._target = _With(worker.broker_line._target, publish_many)
        await worker.send("tell b 2", "a", "m")
        await _is(worker, "b", _told("m", 2))
        assert answers == []


class _With:
    """A broker with another `publish_many`."""

    def __init__(self, broker: object, publish_many: object) -> None:
        self._broker, self.publish_many = broker, publish_many

    def __getattr__(self, name: str) -> object:
        return getattr(self._broker, name)
