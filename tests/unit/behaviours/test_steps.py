"""What is kept of a turn's journal where another message goes on from one of its steps."""

import contextlib
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from support.acting import acting, receiving
from support.attempts import KEY, Attempts, Suspended

from troupe.dataplane.agent.conversation import ModelAnswer
from troupe.dataplane.behaviours.actor_context import ActorContext
from troupe.dataplane.behaviours.steps import prefix, steps
from troupe.dataplane.state.control import Promise
from troupe.dataplane.tools.call import ToolCall
from troupe.dataplane.tools.errors import UnknownOutcome
from troupe.dataplane.tools.tool import idempotency_key, tool

keys: list[str] = []


@tool
async def book(what: str) -> str:
    """Book something."""
    return what


@tool(idempotent=True)
async def look(what: str) -> str:
    """Look at something."""
    keys.append(idempotency_key())
    if len(keys) == 1:
        raise Killed
    return what


class Killed(BaseException):
    """The worker dies here."""


async def shop(context: ActorContext) -> None:
    """Three calls, between promises."""
    await context.promise("first")
    await context.call_tool("book", what="rose", key="a")
    second = await context.promise("second")
    await context.call_tool("book", what=second.token, key="b")
    await context.call_tool("book", what="tulip", key="c")
    await (await context.promise("third"))


async def shopped() -> Attempts:
    attempts = Attempts()
    with contextlib.suppress(Suspended):
        await acting(receiving(shop), attempts, book).run(attempts.begun())
    return attempts


def kept(attempts: Attempts, step: int) -> tuple[list[str], list[str]]:
    """Steps and promises."""
    found = prefix(attempts.kept, attempts.promises.values(), step, KEY, "m1")
    assert all(attempts.kept[name] == content for name, content in found.journal.items())
    return sorted(found.journal), sorted(found.promises)


async def test_the_steps_of_an_actor_are_its_calls_in_order() -> None:
    attempts = await shopped()

    assert [[(call.call_id, call.tool) for call in step] for step in steps(attempts.kept)] == [
        [("a", "book")],
        [("b", "book")],
        [("c", "book")],
    ]


async def test_a_promise_belongs_to_the_step_that_follows_it() -> None:
    attempts = await shopped()

    assert kept(attempts, 0) == ([], [])
    assert kept(attempts, 1) == (["promise/first", "result/a", "start/a"], ["m1/first"])
    assert kept(attempts, 2)[1] == ["m1/first", "m1/second"]
    assert kept(attempts, 3)[1] == ["m1/first", "m1/second"]
    assert kept(attempts, 2**32 - 1) == kept(attempts, 4)
    assert kept(attempts, 4) == (sorted(attempts.kept), ["m1/first", "m1/second", "m1/third"])


async def test_the_turn_that_goes_on_replays_what_is_kept_and_finds_its_promises() -> None:
    """Under their ids of before: whoever has a token of one may settle it."""
    before = await shopped()
    found = prefix(before.kept, before.promises.values(), 2, KEY, "m1")
    after = Attempts(
        kept=dict(found.journal), promises={id_: made for id_, made in before.promises.items() if id_ in found.promises}
    )

    with pytest.raises(Suspended) as suspended:
        await acting(receiving(shop), after, book).run(after.begun())

    assert [line.split()[2] for line in after.shown if line.startswith("←")] == ["replayed", "replayed", "ended"]
    assert suspended.value.promise_ids == {"m1/third"}
    assert [made.id for made in after.promises.values()] == ["m1/first", "m1/second", "m1/third"]


def agent_journal() -> Mapping[str, bytes]:
    """Two answers: the first led to two calls, one of which came to nothing; the second to one."""
    encode = msgspec.msgpack.encode
    answers = [("x", "y"), ("z",)]
    journal = {
        f"answer/{step}": encode(ModelAnswer("", tuple(ToolCall(call, "book", "{}") for call in calls), "tool_calls"))
        for step, calls in enumerate(answers)
    }
    return journal | {"start/x": b"", "result/x": b"r", "start/y": b"", "start/z": b"", "result/z": b"r"}


def test_the_steps_of_an_agent_are_answers_with_their_calls() -> None:
    journal = agent_journal()
    doubt = Promise("m1/unknown-outcome/y", "unknown-outcome/y", "m1", 0.0)

    assert [[call.call_id for call in step] for step in steps(journal)] == [["x", "y"], ["z"]]
    first = prefix(journal, [doubt], 1, KEY, "m1")
    assert sorted(first.journal) == ["answer/0", "key/y", "result/x", "start/x", "start/y"]
    assert first.promises == {doubt.id}
    assert prefix(journal, [doubt], 0, KEY, "m1") == prefix({}, [], 0, KEY, "m1")


async def test_a_call_without_a_result_stays_one_and_keeps_its_key() -> None:
    keys.clear()

    async def receive(context: ActorContext) -> None:
        context.reply(await context.call_tool("look", what="key", key="a"))

    before = Attempts()
    with pytest.raises(Killed):
        await acting(receiving(receive), before, look).run(before.begun())

    after = Attempts(kept=dict(prefix(before.kept, [], 1, KEY, "another").journal))
    assert (await acting(receiving(receive), after, look).run(after.begun())).reply.text == "key"

    assert keys == [f"{KEY.path}/m1/a", f"{KEY.path}/another/a"]
    again = prefix(before.kept | {"key/a": b"of before"}, [], 1, KEY, "another")
    assert again.journal["key/a"] == b"of before", "it was kept once before"


async def test_one_that_may_not_be_made_twice_is_not() -> None:
    async def receive(context: ActorContext) -> None:
        await context.call_tool("book", what="rose", key="a")

    before = await shopped()
    journal: dict[str, Any] = dict(prefix(before.kept, [], 1, KEY, "m1").journal)
    del journal["result/a"]
    after = Attempts(kept=journal)

    with pytest.raises(UnknownOutcome):
        await acting(receiving(receive), after, book).run(after.begun())
