"""What `context.call_tool` does: once each, whatever becomes of the attempt."""

import asyncio
import contextlib
from collections import Counter
from typing import Any

import pytest
from support.acting import acting, receiving
from support.attempts import KEY, Attempts, Suspended

from troupe.chassis.errors import FailedPrecondition, InvalidArgument, TroupeError, Unavailable
from troupe.dataplane.behaviours.actor_context import ActorContext
from troupe.dataplane.tools.errors import NonDeterministic, ToolFailed, UnknownOutcome
from troupe.dataplane.tools.tool import Tool, idempotency_key, tool

acted: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _nothing_acted() -> None:
    acted.clear()


@tool
async def book(what: str, pieces: int = 1) -> dict[str, int]:
    """Book something."""
    acted[what] += 1
    if what == "nothing":
        raise LookupError("there is nothing")
    return {"pieces": pieces}


@tool(idempotent=True)
async def look(what: str) -> str:
    """Look at something."""
    acted[what] += 1
    return f"a {what}"


@tool(timeout=0.01)
async def hang() -> str:
    """Hang."""
    acted["hang"] += 1
    await asyncio.sleep(60)
    return "too late"


class Killed(Exception):
    """The worker dies here."""


async def attempt(attempts: Attempts, receive: Any, *tools: Tool, asks: bool = False) -> str:
    behaviour = acting(receiving(receive), attempts, *(tools or (book, look, hang)), asks=asks)
    return (await behaviour.run(attempts.begun())).reply.text


async def test_a_call_returns_what_the_tool_does_and_its_start_is_durable_before() -> None:
    attempts = Attempts()

    async def receive(context: ActorContext) -> None:
        booked = await context.call_tool("book", what="rose", pieces=3)
        context.reply(f"{booked} {await context.call_tool('look', {'what': 'key'})}")

    assert await attempt(attempts, receive) == "{'pieces': 3} a key"
    (start, *_), (result, *_) = attempts.writes[0][0], attempts.writes[1][0]
    assert start.startswith("start/book/")
    assert [starts for _, starts, _ in attempts.writes] == [True, False, True, False]
    assert result == start.replace("start/", "result/")
    assert attempts.shown[0].endswith('book {"pieces": 3, "what": "rose"}')
    assert attempts.shown[1].endswith('ended {"pieces":3}')


async def test_an_attempt_that_comes_again_gets_the_results_and_calls_nothing_twice() -> None:
    attempts = Attempts()

    async def receive(context: ActorContext) -> None:
        for _ in range(2):
            await context.call_tool("book", what="rose")
        if context.attempt == 0:
            raise Killed
        context.reply(str(await context.call_tool("book", {"what": "rose"}, key="third")))

    with pytest.raises(Killed):
        await attempt(attempts, receive)
    assert await attempt(attempts, receive) == "{'pieces': 1}"
    assert acted == {"rose": 3}
    assert [line.split()[2] for line in attempts.shown if line.startswith("←")] == ["replayed", "replayed", "ended"]


async def test_a_failed_call_is_an_error_that_is_replayed_as_it_was() -> None:
    attempts, seen = Attempts(), list[tuple[str, str]]()

    async def receive(context: ActorContext) -> None:
        try:
            await context.call_tool("book", what="nothing")
        except ToolFailed as failed:
            seen.append((failed.reason, str(failed)))
        if context.attempt == 0:
            raise Killed

    with pytest.raises(Killed):
        await attempt(attempts, receive)
    await attempt(attempts, receive)
    assert seen == [("TOOL_FAILED", "tool book: LookupError: there is nothing")] * 2
    assert acted == {"nothing": 1}


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [("dance", {}, "UNKNOWN_TOOL"), ("book", {}, "INVALID_ARGUMENTS"), ("book", {"what": 3}, "INVALID_ARGUMENTS")],
)
async def test_an_impossible_call_fails_and_leaves_no_trace(name: str, arguments: dict[str, Any], reason: str) -> None:
    attempts = Attempts()
    with pytest.raises(ToolFailed) as failed:
        await attempt(attempts, lambda context: context.call_tool(name, arguments))
    assert (failed.value.reason, failed.value.retryable) == (reason, False)
    assert attempts.writes == []


async def test_a_call_that_left_no_result_is_unknown_whatever_the_code_makes_of_it() -> None:
    attempts = Attempts(refuses={1: Killed()})

    async def receive(context: ActorContext) -> None:
        try:
            await context.call_tool("book", what="rose")
        except TroupeError:
            context.reply("all is well")

    with pytest.raises(Killed):
        await attempt(attempts, receive)
    with pytest.raises(UnknownOutcome, match=r"tool book .* was started by an attempt that ended before its result"):
        await attempt(attempts, receive)
    assert acted == {"rose": 1}


async def test_an_idempotent_tool_that_left_no_result_runs_again_under_its_id_without_another_start() -> None:
    attempts = Attempts(refuses={1: Killed()})

    async def receive(context: ActorContext) -> None:
        context.reply(await context.call_tool("look", what="key"))

    with pytest.raises(Killed):
        await attempt(attempts, receive)
    assert await attempt(attempts, receive) == "a key"
    assert acted == {"key": 2}
    assert len(attempts.writes) == 3


async def test_a_tool_knows_its_call_by_a_key_that_stays_when_it_runs_again() -> None:
    attempts, keys = Attempts(refuses={1: Killed()}), list[str]()

    @tool(idempotent=True)
    async def pay() -> str:
        """Pay."""
        keys.append(idempotency_key())
        return "paid"

    @tool(idempotent=True)
    def thread() -> str:
        """In a thread."""
        keys.append(idempotency_key())
        return "paid"

    async def receive(context: ActorContext) -> None:
        await context.call_tool("pay", key="one")
        await context.call_tool("thread", key="two")

    with pytest.raises(Killed):
        await attempt(attempts, receive, pay, thread)
    await attempt(attempts, receive, pay, thread)
    assert keys == [f"{KEY.path}/m1/{key}" for key in ("one", "one", "two")]
    with pytest.raises(LookupError):
        idempotency_key()


async def test_a_tool_that_runs_out_of_time_is_unknown() -> None:
    with pytest.raises(UnknownOutcome, match="given up while it ran"):
        await attempt(Attempts(), lambda context: context.call_tool("hang"))


@pytest.mark.parametrize(
    ("again", "why"),
    [
        (("book", {"what": "lily"}), "call one has other arguments than before"),
        (("look", {"what": "rose"}), "call one is look, and was book"),
    ],
)
async def test_another_call_under_the_same_key_does_not_replay(again: tuple[str, dict[str, str]], why: str) -> None:
    attempts = Attempts()

    async def receive(context: ActorContext) -> None:
        name, arguments = again if context.attempt else ("book", {"what": "rose"})
        with contextlib.suppress(TroupeError):
            await context.call_tool(name, arguments, key="one")
        if not context.attempt:
            raise Killed

    with pytest.raises(Killed):
        await attempt(attempts, receive)
    with pytest.raises(NonDeterministic, match=why):
        await attempt(attempts, receive)
    assert acted == {"rose": 1}


@pytest.mark.parametrize("key", ["", "x" * 129, "compensation/one"])
async def test_keys_that_are_none(key: str) -> None:
    with pytest.raises(InvalidArgument, match="a call's key has 1 to 128 bytes"):
        await attempt(Attempts(), lambda context: context.call_tool("look", {"what": "key"}, key=key))


async def test_a_key_names_one_call_of_a_turn_also_while_that_runs() -> None:
    async def receive(context: ActorContext) -> None:
        await asyncio.gather(*(context.call_tool("look", {"what": "key"}, key="one") for _ in range(2)))

    with pytest.raises(InvalidArgument, match="has a call with the key 'one' already"):
        await attempt(Attempts(), receive)
    assert acted == {"key": 1}


async def test_a_refused_start_ends_the_attempt_before_the_tool_acts_whatever_the_code_makes_of_it() -> None:
    attempts = Attempts(refuses={0: Unavailable("AWAY", "the store is away")})

    async def receive(context: ActorContext) -> None:
        try:
            await context.call_tool("book", what="rose")
        except TroupeError:
            context.reply("all is well")

    with pytest.raises(Unavailable, match="the store is away"):
        await attempt(attempts, receive)
    assert acted == {}


async def test_calls_that_the_code_left_running_come_to_their_end_in_the_turn() -> None:
    attempts, left = Attempts(), list[asyncio.Task[Any]]()

    async def receive(context: ActorContext) -> None:
        left.append(asyncio.create_task(context.call_tool("book", what="rose")))
        await asyncio.sleep(0)
        raise Killed

    with pytest.raises(Killed):
        await attempt(attempts, receive)
    assert acted == {"rose": 1}
    assert len(attempts.writes) == 2
    await left[0]


async def test_nothing_is_called_once_the_turn_is_over() -> None:
    contexts = list[ActorContext]()

    async def receive(context: ActorContext) -> None:
        contexts.append(context)

    await attempt(Attempts(), receive)
    with pytest.raises(FailedPrecondition, match="the turn is over"):
        await contexts[0].call_tool("look", what="key")


async def test_a_person_is_asked_where_the_actor_says_so_and_the_call_is_not_made_again() -> None:
    attempts = Attempts(refuses={1: Killed()})

    async def receive(context: ActorContext) -> None:
        context.reply(str(await context.call_tool("book", {"what": "rose"}, key="order")))

    with pytest.raises(Killed):
        await attempt(attempts, receive, asks=True)
    with pytest.raises(Suspended) as waits:
        await attempt(attempts, receive, asks=True)
    assert waits.value.promise_ids == {"m1/unknown-outcome/order"}
    attempts.settle("m1/unknown-outcome/order", "it was booked")
    assert await attempt(attempts, receive, asks=True) == "it was booked"
    attempts.promises.clear()
    assert await attempt(attempts, receive, asks=True) == "it was booked", "what the person said is journaled"
    assert acted == {"rose": 1}


async def test_a_person_who_says_that_it_failed_makes_it_fail() -> None:
    attempts = Attempts()

    async def receive(context: ActorContext) -> None:
        try:
            await context.call_tool("hang", key="h")
        except ToolFailed as failed:
            context.reply(str(failed))

    with pytest.raises(Suspended):
        await attempt(attempts, receive, asks=True)
    attempts.settle("m1/unknown-outcome/h", None, "nothing was sent")
    assert await attempt(attempts, receive, asks=True) == "tool hang: nothing was sent"
    assert acted == {"hang": 1}


async def test_while_a_person_is_asked_the_other_calls_come_to_their_results() -> None:
    attempts, hung = Attempts(), asyncio.Event()

    @tool
    async def slow() -> str:
        """Goes on until the other call was given up, and some more."""
        await hung.wait()
        await asyncio.sleep(0.01)
        return "done"

    async def receive(context: ActorContext) -> None:
        await asyncio.gather(context.call_tool("hang", key="h"), context.call_tool("slow", key="s"))

    async def give_up() -> None:
        while not attempts.promises:  # noqa: ASYNC110 - what is waited for is inside the code under test
            await asyncio.sleep(0.001)
        hung.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(give_up())
        with pytest.raises(Suspended):
            await attempt(attempts, receive, hang, slow, asks=True)
    assert "result/s" in attempts.kept
