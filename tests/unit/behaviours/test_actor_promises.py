"""What `context.promise` does: made once, waited for without memory, seen as it was settled."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from support.acting import acting, receiving
from support.attempts import KEY, Attempts, Suspended

from troupe.chassis.errors import DataLoss, InvalidArgument, Unavailable
from troupe.dataplane import promise_tokens
from troupe.dataplane.behaviours.actor_context import ActorContext
from troupe.dataplane.behaviours.promises import PromiseExpired, PromiseRejected
from troupe.dataplane.tools.tool import tool

TOKENS = list[str]()


@pytest.fixture(autouse=True)
def _no_tokens() -> None:
    TOKENS.clear()


@tool
async def mail(body: str) -> str:
    """Send a mail."""
    TOKENS.append(body.rsplit(maxsplit=1)[-1])
    return "sent"


@dataclass
class Answer:
    yes: bool
    why: str = ""


async def attempt(attempts: Attempts, receive: Any) -> str:
    return (await acting(receiving(receive), attempts, mail).run(attempts.begun())).reply.text


async def _approved(context: ActorContext) -> None:
    approval = await context.promise("approval", Answer, expires=timedelta(hours=1), approvers=["ann"])
    TOKENS.append(approval.token)
    answer = await approval
    context.reply(f"{answer.yes} {answer.why}")


async def test_a_turn_waits_for_its_promise_and_goes_on_with_the_value() -> None:
    attempts = Attempts()
    with pytest.raises(Suspended) as waits:
        await attempt(attempts, _approved)
    assert waits.value.promise_ids == {"m1/approval"}
    promise = attempts.promises["m1/approval"]
    assert (promise.name, promise.message_id, promise.approvers) == ("approval", "m1", ("ann",))
    assert promise.expires == attempts.clock.now() + 3600
    assert msgspec.json.decode(promise.json_schema)["$defs"]["Answer"]["required"] == ["yes"]
    attempts.settle("m1/approval", '{"yes": true, "why": "cheap"}', json=True)
    assert await attempt(attempts, _approved) == "True cheap"


async def test_each_attempt_has_a_token_of_its_own_and_the_promise_knows_all_of_them() -> None:
    attempts = Attempts()
    for _ in range(2):
        with pytest.raises(Suspended):
            await attempt(attempts, _approved)
    assert len(set(TOKENS)) == 2
    assert attempts.promises["m1/approval"].tokens == tuple(map(promise_tokens.hashed, TOKENS))
    assert {promise_tokens.named(token) for token in TOKENS} == {(KEY, "m1/approval")}


async def test_the_promise_is_durable_before_its_token_is_known() -> None:
    attempts = Attempts(refuses={0: Unavailable("AWAY", "the store is away")})
    with pytest.raises(Unavailable):
        await attempt(attempts, _approved)
    assert TOKENS == []


async def test_a_token_that_a_tool_was_given_neither_stops_the_replay_nor_is_kept_or_shown() -> None:
    attempts = Attempts()

    async def receive(context: ActorContext) -> None:
        approval = await context.promise("approval", bool)
        await context.call_tool("mail", body=f"answer with {approval.token}")
        context.reply(str(await approval))

    with pytest.raises(Suspended):
        await attempt(attempts, receive)
    (token,) = TOKENS
    secret = token.rpartition(".")[2]
    assert secret not in repr((attempts.kept, attempts.shown))
    attempts.settle("m1/approval", "true", json=True)
    assert await attempt(attempts, receive) == "True"
    assert len(TOKENS) == 1, "the mail went once"


async def test_a_token_that_was_given_out_stays_good_however_often_the_turn_comes_again() -> None:
    attempts = Attempts()

    async def receive(context: ActorContext) -> None:
        approval = await context.promise("approval", bool)
        await context.call_tool("mail", {"body": f"answer with {approval.token}"}, key="first")
        if context.attempt == 20:
            await context.call_tool("mail", {"body": f"be quick: {approval.token}"}, key="second")
        await approval

    for _ in range(25):
        with pytest.raises(Suspended):
            await attempt(attempts, receive)
    assert len(TOKENS) == 2
    assert set(map(promise_tokens.hashed, TOKENS)) <= set(attempts.promises["m1/approval"].tokens)


@pytest.mark.parametrize("settled", ["rejected", "expired"])
async def test_an_end_without_a_value_is_an_error_that_the_code_can_catch(settled: str) -> None:
    attempts = Attempts()

    async def receive(context: ActorContext) -> None:
        try:
            await (await context.promise("approval"))
        except (PromiseRejected, PromiseExpired) as error:
            context.reply(f"{error.reason}: {error}")

    with pytest.raises(Suspended):
        await attempt(attempts, receive)
    if settled == "rejected":
        attempts.settle("m1/approval", None, "too dear")
        assert await attempt(attempts, receive) == "PROMISE_REJECTED: too dear"
    else:
        attempts.expire("m1/approval")
        assert await attempt(attempts, receive) == "PROMISE_EXPIRED: promise approval was not settled in time"


async def test_without_a_schema_the_value_is_the_content_and_with_a_json_schema_what_its_json_says() -> None:
    attempts, seen = Attempts(), list[Any]()

    async def receive(context: ActorContext) -> None:
        first, second = await context.promise("any"), await context.promise("listed", {"type": "array"})
        seen.extend(await asyncio.gather(first, second))

    with pytest.raises(Suspended) as waits:
        await attempt(attempts, receive)
    assert waits.value.promise_ids == {"m1/any", "m1/listed"}, "any of them lets it go on"
    attempts.settle("m1/any", "as it is")
    attempts.settle("m1/listed", "[1, 2]", json=True)
    await attempt(attempts, receive)
    assert (seen[0].text, seen[1]) == ("as it is", [1, 2])


async def test_a_value_of_another_type_is_said_to_be_one() -> None:
    attempts = Attempts()
    with pytest.raises(Suspended):
        await attempt(attempts, _approved)
    attempts.settle("m1/approval", '{"yes": "perhaps"}', json=True)
    with pytest.raises(DataLoss, match="promise approval: its value is not of the schema"):
        await attempt(attempts, _approved)


@pytest.mark.parametrize("expires", [float("inf"), float("nan"), 1e12, -1e12, timedelta.max])
async def test_spans_that_are_none(expires: Any) -> None:
    """Nobody could be told when they are over, and no store keeps all of them."""

    async def receive(context: ActorContext) -> None:
        await context.promise("approval", expires=expires)

    attempts = Attempts()
    with pytest.raises(InvalidArgument, match="leave it out where it never does"):
        await attempt(attempts, receive)
    assert not attempts.promises


@pytest.mark.parametrize("name", ["", "a/b", "x" * 64, "ä"])
async def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InvalidArgument, match="must match"):
        await attempt(Attempts(), lambda context: context.promise(name))


async def test_a_turn_that_waits_lets_its_calls_end_first() -> None:
    attempts, running = Attempts(), asyncio.Event()

    @tool
    async def slow() -> str:
        """Takes its time."""
        running.set()
        for _ in range(20):
            await asyncio.sleep(0)
        return "done"

    async def receive(context: ActorContext) -> None:
        approval = await context.promise("approval", bool)
        call = asyncio.create_task(context.call_tool("slow", key="slow"))
        await running.wait()
        await asyncio.gather(approval, call)

    behaviour = acting(receiving(receive), attempts, slow)
    with pytest.raises(Suspended):
        await behaviour.run(attempts.begun())
    assert "result/slow" in attempts.kept
