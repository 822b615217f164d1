"""Events of turns, and those who listen."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from support.fake_clock import FakeClock
from support.hosting import key, until

from troupe.broker.order import Number
from troupe.chassis.errors import Internal, ResourceExhausted
from troupe.dataplane.actors.attempt import SHOWN_RESULT, AttemptEvents
from troupe.dataplane.actors.coalescing import BUSY, COALESCE, coalesce
from troupe.dataplane.actors.hub import FEED_LIMIT, Hub, MessageLog
from troupe.v1.agent_pb2 import EventPosition
from troupe.v1.envelope_pb2 import Content
from troupe.v1.turn_pb2 import Completed, Event, Failed, ToolCallFinished, ToolCallStarted


def events_of(log: MessageLog, attempt: int = 0, clock: FakeClock | None = None) -> AttemptEvents:
    return AttemptEvents(log, key().ref(), "m", 1, attempt, clock or FakeClock())


async def all_of(events: AsyncIterator[Event]) -> list[Event]:
    async with asyncio.timeout(10):
        return [event async for event in events]


def shown(events: list[Event]) -> list[str]:
    return [
        event.token_delta.text if event.HasField("token_delta") else str(event.WhichOneof("kind")) for event in events
    ]


async def test_followers_read_at_their_own_pace_and_neighbouring_text_is_joined() -> None:
    hub, clock = Hub(), FakeClock()
    with hub.log(key(), "m") as log:
        events = events_of(log, clock=clock)
        events.started("w", "r")
        quick = asyncio.create_task(all_of(log.follow()))
        for word in ("one ", "two ", "three"):
            events.text(word)
            clock.advance(1)
            await asyncio.sleep(0.001)
        events.completed(Completed(result=Content(text="one two three")))
        late = await all_of(log.follow())

        assert shown(await quick) == ["started", "one ", "two ", "three", "completed"]
        assert shown(late) == ["started", "one two three", "completed"]
        assert [event.sequence for event in late] == [1, 4, 5]


@pytest.mark.parametrize("behind", range(6))
async def test_a_seal_leaves_what_was_shown_before_a_wait(behind: int) -> None:
    hub = Hub()
    with hub.log(key(), "m") as log:
        first, second = events_of(log), events_of(log, attempt=1)
        follower = log.follow()
        steps: list[Callable[[], None]] = [
            lambda: first.started("w", "r"),
            lambda: first.text("half "),
            lambda: first.suspended([]),
            lambda: second.started("w", "r", continues=True),
            lambda: second.text("void"),
        ]
        seen = []
        for number, show in enumerate(steps):
            show()
            if number < behind:
                seen.append(await anext(follower))
        second.sealed(Internal("X", "x"), None)
        late = all_of(log.follow())
        third = events_of(log, attempt=2)
        third.completed(Completed(result=Content(text="half done")))
        rest = [*["started", "half ", "suspended"][behind:], "sealed", "completed"]
        assert shown([event async for event in follower]) == rest
        assert shown(await late) == ["started", "half ", "suspended", "sealed", "completed"]


async def test_text_comes_at_once_and_then_every_forty_milliseconds() -> None:
    hub, clock = Hub(), FakeClock()
    with hub.log(key(), "m") as log:
        events = events_of(log, clock=clock)
        follower = asyncio.create_task(all_of(log.follow()))
        events.text("first")
        began = asyncio.get_running_loop().time()
        for word in (" a", " b", " c"):
            events.text(word)
        assert len(log._events) == 1
        await until(lambda: len(log._events) == 2)
        assert asyncio.get_running_loop().time() - began >= COALESCE[0] * 0.9
        events.completed(Completed())
        assert shown(await follower) == ["first", " a b c", "completed"]


async def test_a_busy_worker_shows_text_less_often_but_neither_its_begin_nor_its_end_later() -> None:
    hub, clock = Hub(), FakeClock()
    hub.coalesce = coalesce(busy=1.0)
    with hub.log(key(), "m") as log:
        events = events_of(log, clock=clock)

        def say(*words: str) -> None:
            for word in words:
                events.text(word)
                clock.advance(0.05)

        # Given text of which only the first is due, when something else is shown
        say("let", " me", " look")
        events.tool_started(ToolCallStarted(call_id="c"))
        events.tool_finished(ToolCallFinished(call_id="c"))
        # Then the rest comes before it, and what follows it at once
        say("two")
        called = ["tool_call_started", "tool_call_finished"]
        assert shown([event for event, *_ in log._events]) == ["let", " me look", *called, "two"]
        # When it goes on, faster than it is shown
        say(" and", " a", " half")
        # Then it is held back, and comes with the end
        assert len(log._events) == 5
        events.completed(Completed())
        assert shown([event for event, *_ in log._events])[5:] == [" and a half", "completed"]


@pytest.mark.parametrize(("busy", "seconds"), [(0.0, 0.04), (BUSY[0], 0.04), (0.5, 0.12), (BUSY[1], 0.2), (1.0, 0.2)])
def test_the_busier_the_worker_the_longer_text_is_held_back(busy: float, seconds: float) -> None:
    assert coalesce(busy) == pytest.approx(seconds)


async def test_a_follower_that_reconnects_gets_what_it_lacks() -> None:
    hub = Hub()
    with hub.log(key(), "m") as log:
        events = events_of(log)
        events.started("w", "r")
        events.tool_finished(ToolCallFinished(call_id="c"))
        events.completed(Completed())
        missing = await all_of(log.follow(EventPosition(epoch=1, attempt=0, sequence=1)))
        assert [event.sequence for event in missing] == [2, 3]
        nothing = await all_of(log.follow(EventPosition(epoch=1, attempt=0, sequence=3)))
        assert shown(nothing) == ["completed"], "the last event ends the stream, whatever was seen"


async def test_what_a_sealed_attempt_showed_is_not_shown_to_newcomers() -> None:
    hub = Hub()
    with hub.log(key(), "m") as log:
        before = asyncio.create_task(all_of(log.follow()))
        first = events_of(log)
        first.text("wrong")
        await asyncio.sleep(0)
        first.text("never shown")
        first.sealed(Internal("X", "x"), None)
        second = events_of(log, attempt=1)
        second.text("right")
        second.completed(Completed())
        assert shown(await all_of(log.follow())) == ["sealed", "right", "completed"]
        assert shown(await before) == ["wrong", "sealed", "right", "completed"]


async def test_an_answer_for_one_copy_reaches_its_sender_alone() -> None:
    hub = Hub()
    with hub.log(key(), "m") as log, hub.feed(key()) as feed:
        events_of(log).failed(Failed(), only=Number("b", 1))
        events_of(log).completed(Completed())
        assert shown(await all_of(log.follow(None, Number("b", 1)))) == ["failed"]
        assert shown(await all_of(log.follow(None, Number("a", 1)))) == ["completed"]
        assert shown(await all_of(log.follow(None, None))) == ["completed"]
        async for event in feed.follow():
            assert event.HasField("completed")
            break


async def test_a_log_lives_as_long_as_anybody_uses_it() -> None:
    hub = Hub()
    with hub.log(key(), "m") as one:
        with hub.log(key(), "m") as two:
            assert one is two
        assert hub.listening(key(), "m")
    assert not hub.listening(key(), "m")
    with hub.feed(key()):
        assert hub.listening(key(), "m")
    assert not hub.listening(key(), "m")


async def test_who_is_stirred_gets_what_is_there_and_ends() -> None:
    hub = Hub()
    with hub.log(key(), "m") as log, hub.log(key("other"), "m") as undisturbed, hub.feed(key()) as feed:
        follower, session = asyncio.create_task(all_of(log.follow())), asyncio.create_task(all_of(feed.follow()))
        elsewhere = asyncio.create_task(all_of(undisturbed.follow()))
        await asyncio.sleep(0)
        events_of(log).text("said")
        hub.stir(lambda each: each == key())
        assert shown(await follower) == shown(await session) == ["said"]
        assert not elsewhere.done()
        elsewhere.cancel()
        await asyncio.wait([elsewhere])


async def test_a_stir_between_a_look_and_the_next_follow_is_not_missed() -> None:
    hub = Hub()
    with hub.log(key(), "m") as log:
        before = log.stirs
        log.stir()
        assert await all_of(log.follow(stirs=before)) == []


@pytest.mark.parametrize("ends", [True, False])
async def test_followers_are_stirred_when_a_turn_is_over_without_the_end_of_its_message(ends: bool) -> None:
    hub = Hub()
    with hub.log(key(), "m") as log:
        follower = asyncio.create_task(all_of(log.follow()))
        await asyncio.sleep(0)
        with hub.log(key(), "m", runs=True):
            assert log.running == 1
            if ends:
                events_of(log).completed(Completed())
        assert log.running == 0
        assert shown(await follower) == (["completed"] if ends else [])
        assert log.stirs == (0 if ends else 1)


async def test_a_slow_follower_of_a_session_is_cut_and_nobody_else() -> None:
    hub = Hub()
    with hub.feed(key()) as slow, hub.log(key(), "m") as log:
        events = events_of(log)
        for _ in range(FEED_LIMIT + 10):
            events.started("w", "r")
        got = 0
        with pytest.raises(ResourceExhausted) as cut:
            async for _ in slow.follow():
                got += 1
        assert got == FEED_LIMIT
        assert cut.value.reason == "TOO_SLOW"
        events.completed(Completed())
        assert len(await all_of(log.follow())) == FEED_LIMIT + 11


async def test_a_long_result_is_cut_in_the_event_between_two_characters() -> None:
    hub = Hub()
    with hub.log(key(), "m") as log:
        events = events_of(log)
        events.tool_finished(ToolCallFinished(result="é" * SHOWN_RESULT))
        event, *_ = log._events[0]
        assert event.tool_call_finished.result == "é" * (SHOWN_RESULT // 2) + "…"


async def test_nothing_is_shown_after_the_end_of_an_attempt() -> None:
    hub = Hub()
    with hub.log(key(), "m") as log:
        events = events_of(log)
        events.text("a")
        events.text("b")
        events.close()
        await asyncio.sleep(COALESCE[0] * 1.5)
        assert shown([event for event, *_ in log._events]) == ["a"]
