"""What an actor's turn leaves behind: reply, sends, reminders, and its errors."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.acting import RESOURCE, acting, receiving
from support.attempts import SENT, Attempts

from troupe.chassis.errors import FailedPrecondition, InvalidArgument
from troupe.dataplane.actors.behaviour import Remind, TurnResult
from troupe.dataplane.behaviours.actor import load
from troupe.dataplane.behaviours.actor_context import ActorContext
from troupe.dataplane.behaviours.batch import BatchContext, BatchedMessage
from troupe.dataplane.behaviours.context import MAX_REMINDERS
from troupe.dataplane.blobs.payloads import MAX_CONTENT
from troupe.v1.envelope_pb2 import Content, Envelope


async def turn(receive: Any, state: bytes = b"", **changes: Any) -> TurnResult:
    attempts = Attempts()
    return await acting(receiving(receive), attempts).run(attempts.begun(state, **changes))


def does(act: Any) -> Any:
    async def receive(context: ActorContext) -> None:
        act(context)

    return receive


NOW = Attempts().clock.now()


@pytest.mark.parametrize(
    ("when", "due", "every"),
    [
        ({"after": 30}, NOW + 30, 0.0),
        ({"after": timedelta(minutes=1), "every": 5}, NOW + 60, 5.0),
        ({"every": timedelta(hours=1)}, NOW + 3600, 3600.0),
        ({"at": 2_000_000_000.5}, 2_000_000_000.5, 0.0),
        ({"at": datetime(2033, 5, 18, 3, 33, 20, tzinfo=UTC)}, 2_000_000_000.0, 0.0),
    ],
)
async def test_a_reminder_is_due_when_it_says(when: dict[str, Any], due: float, every: float) -> None:
    result = await turn(does(lambda context: context.remind("tea", "drink it", **when)))
    assert result.remind == [Remind("tea", due, every, Content(text="drink it"))]
    assert result.forget_reminders == []


@pytest.mark.parametrize(
    "when",
    [
        {},
        {"after": 1, "at": 1},
        {"after": 1, "every": 0.5},
        {"at": 1, "every": float("inf")},
        {"at": -1},
        {"after": float("nan")},
    ],
)
async def test_a_reminder_without_a_time_is_refused(when: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="reminder tea"):
        await turn(does(lambda context: context.remind("tea", **when)))


async def test_the_last_word_about_a_reminder_counts() -> None:
    def act(context: ActorContext) -> None:
        context.remind("tea", after=1)
        context.forget_reminder("tea")
        context.forget_reminder("cake")
        context.remind("cake", after=1)

    result = await turn(does(act))
    assert ([each.name for each in result.remind], result.forget_reminders) == (["cake"], ["tea"])


async def test_reminders_are_bounded() -> None:
    def act(context: ActorContext) -> None:
        for index in range(MAX_REMINDERS + 1):
            context.remind(f"r{index}", after=1)

    with pytest.raises(InvalidArgument, match="at most 100 reminders"):
        await turn(does(act))


async def test_a_turn_knows_its_message() -> None:
    seen: list[Any] = []
    plain = does(lambda context: seen.append((context.reminder, context.sent_at, context.message_id)))
    await turn(plain)
    await turn(plain, message=Envelope(id="m2", reminder="tea"))
    assert seen == [(None, SENT, "m1"), ("tea", 0.0, "m2")]


@pytest.mark.parametrize("body", ["x" * (MAX_CONTENT + 1), b"x" * (MAX_CONTENT + 1)])
async def test_what_is_too_large_names_actor_size_and_limit_and_is_not_tried_again(body: str | bytes) -> None:
    for act, what in (
        (lambda context: context.reply(body), "the reply"),
        (lambda context: context.send("other", "s", body), "a message to other/s"),
        (lambda context: context.remind("tea", body, after=1), "reminder tea"),
    ):
        with pytest.raises(InvalidArgument, match=rf"{RESOURCE}: {what} has 16,777,2\d\d bytes, at most 16,777,216"):
            await turn(does(act))


async def test_what_the_constructor_raises_ends_the_attempt() -> None:
    class Broken:
        def __init__(self) -> None:
            raise OSError("no such file")

        async def receive(self, context: ActorContext, message: Content) -> None: ...

    attempts = Attempts()
    with pytest.raises(OSError, match="no such file"):
        await acting(Broken, attempts).run(attempts.begun())


async def test_clean_up_that_raises_after_a_cancel_ends_the_attempt() -> None:
    began = asyncio.Event()
    seen: list[bool] = []

    async def receive(context: ActorContext) -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            seen.append(context.cancelled)
            raise OSError("cannot clean up")

    running = asyncio.create_task(turn(receive, cancelled=lambda: True))
    await began.wait()
    running.cancel()
    with pytest.raises(OSError, match="cannot clean up"):
        await running
    assert seen == [True]


class Counting:
    """Adds numbers up, several at once."""

    async def receive(self, context: ActorContext, message: Content) -> None:
        context.reply("alone")

    async def receive_batch(self, context: BatchContext, messages: list[BatchedMessage]) -> None:
        total = int(context.state or b"0")
        for message in messages:
            total += int(message.text)
            message.reply(str(total))
        context.state = str(total).encode()
        context.send("other", "s", f"{len(messages)} at once")
        context.remind("tea", after=1)


async def test_a_batch_has_one_state_and_a_reply_for_each_message() -> None:
    attempts = Attempts(text="1")
    waiting = [Envelope(id=f"m{number}", content=Content(text=str(number))) for number in (2, 3)]
    result = await acting(Counting, attempts).run(attempts.begun(batch=waiting))
    assert [result.reply.text, *(reply.text for reply in result.replies)] == ["1", "3", "6"]
    assert acting(Counting, attempts).form.read(result.state or b"") == b"6"
    assert [send.content.text for send in result.sends] == ["3 at once"]
    assert [each.name for each in result.remind] == ["tea"]


async def test_a_message_alone_is_received_and_a_class_without_batches_takes_none() -> None:
    attempts = Attempts()
    counting = acting(Counting, attempts)
    assert (await counting.run(attempts.begun())).reply.text == "alone"
    assert (counting.max_batch, acting(receiving(does(print)), attempts).max_batch) == (10, 1)


@pytest.mark.parametrize("method", ["call_tool", "promise"])
async def test_a_batch_makes_neither_calls_nor_promises(method: str) -> None:
    class Asking(Counting):
        async def receive_batch(self, context: BatchContext, messages: list[BatchedMessage]) -> None:
            await getattr(context, method)("x")

    attempts = Attempts()
    with pytest.raises(FailedPrecondition) as refused:
        await acting(Asking, attempts).run(attempts.begun(batch=[Envelope(id="m2")]))
    assert refused.value.reason == "BATCH_HAS_NO_CALLS"


def test_what_cannot_be_loaded_is_named() -> None:
    with pytest.raises(InvalidArgument, match=r"Actor/default/x: .* is no class with a method receive"):
        load("support.acting:acting", "Actor/default/x")
    with pytest.raises(FailedPrecondition, match="Actor/default/x: cannot import nowhere"):
        load("nowhere:Actor", "Actor/default/x")
