"""What those who listen are shown of turns."""

import asyncio
import itertools
from contextlib import aclosing

from support.hosting import Backends, Listener, key, until
from support.scripted_behaviour import Scripted

from troupe.dataplane.actors.behaviour import TurnContext
from troupe.v1.agent_pb2 import EventPosition


async def test_a_conversation_has_all_events_in_order(backends: Backends) -> None:
    async def talk(turn: TurnContext) -> str:
        for word in ("one", "two", "three", "four"):
            turn.events.text(word)
            await asyncio.sleep(0.015)
        return "onetwothreefour"

    async with backends.worker(Scripted(does={"talk": talk})) as worker, worker.conversation("talk") as listener:
        end = await listener.end()

    assert listener.kinds[:3] == ["accepted", "started", "token_delta"]
    assert "".join(event.token_delta.text for event in listener.events) == end.completed.result.text
    ordered = [(event.epoch, event.attempt, event.sequence) for event in listener.events]
    assert ordered == sorted(ordered)
    shown = [event.time.ToNanoseconds() / 1e9 for event in listener.events if event.HasField("token_delta")]
    assert all(later - earlier > 0.03 for earlier, later in itertools.pairwise(shown[:-1]))


async def test_a_feed_has_the_events_of_all_messages_of_its_session(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        listener = Listener()
        with worker.hub.feed(key()) as feed:
            task = asyncio.create_task(listener.listen(feed.follow()))
            await worker.ask("one", message_id="m1")
            await worker.ask("other", "elsewhere")
            await worker.ask("two", message_id="m2")
            await until(lambda: listener.kinds.count("completed") == 2)
            task.cancel()
            await asyncio.wait([task])
    assert [event.message_id for event in listener.events] == ["m1", "m1", "m2", "m2"]


async def test_a_client_that_reconnects_goes_on_where_it_was(backends: Backends) -> None:
    script = Scripted()
    gate = script.gate("talk")

    async def talk(turn: TurnContext) -> str:
        turn.events.text("one ")
        await gate(turn)
        turn.events.text("two")
        return "one two"

    script.does["talk"] = talk
    async with backends.worker(script) as worker:
        async with worker.conversation("talk", message_id="m") as first:
            await until(lambda: "token_delta" in first.kinds)
        last = first.events[-1]
        after = EventPosition(epoch=last.epoch, attempt=last.attempt, sequence=last.sequence)
        async with worker.conversation("talk", message_id="m", after=after) as second:
            await until(lambda: "accepted" in second.kinds)
            gate.open.set()
            end = await second.end()
        assert "".join(event.token_delta.text for event in second.events) == "two"
        assert end.completed.result.text == "one two"
        assert not end.completed.stored


async def test_a_follower_of_a_settled_message_gets_its_stored_end(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        await worker.ask("hello", message_id="m")
        async with aclosing(worker.gateway.follow(key(), "m", None)) as events:
            (event,) = [event async for event in events]
        assert event.completed.stored
        assert event.completed.result.text == "hello"
        assert event.completed.state_version == 1
