"""RESTART of a real worker over gRPC: what is kept of a turn, and what is done again."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.asking_actor import DONE, TOKENS
from support.asking_fleet import Client, asking_fleet

from troupe.chassis.errors import InvalidArgument
from troupe.chassis.rpc_client import translated
from troupe.v1 import agent_pb2 as pb
from troupe.v1 import dead_letter_pb2, promise_pb2
from troupe.v1.agent_pb2 import MessageRef
from troupe.v1.envelope_pb2 import Content, SessionRef
from troupe.v1.promise_pb2 import ResolveRequest
from troupe.v1.turn_pb2 import FATE_CANCELLED, FATE_DEAD, FATE_DONE, FATE_PAUSED, FATE_RUNNING, FATE_WAITING

SESSION = SessionRef(agent="asker", session="s")


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with asking_fleet(tmp_path) as client:
        yield client


async def restart(client: Client, message_id: str, from_step: int | None, **parts: Any) -> pb.ControlTurnsResponse:
    request = pb.ControlTurnsRequest(
        verb=pb.VERB_RESTART,
        messages=[MessageRef(session=SESSION, message_id=message_id)],
        from_step=from_step,
        **parts,
    )
    with translated():
        (response,) = [one async for one in client.agents.ControlTurns(request)]
    return response


def answer(response: pb.ControlTurnsResponse) -> str:
    return pb.VerbAnswer.Name(response.answer).removeprefix("VERB_ANSWER_")


async def waiting(client: Client) -> str:
    """A message that has booked three rooms, and waits for an answer."""
    await client.send("take red green blue", "m1")
    await asks(client, "m1")
    assert DONE == ["booked red", "booked green", "booked blue"]
    return TOKENS.pop()


async def asks(client: Client, message_id: str, session: str = "s") -> pb.MessageStatus:
    """Once it waits for a promise: before it begins it waits, too."""
    async with asyncio.timeout(10):
        while not (found := await client.status(message_id, session)).awaits:  # noqa: ASYNC110 - it is out there
            await asyncio.sleep(0.01)
    return found


async def settle(client: Client, token: str, text: str = "yes") -> int:
    request = ResolveRequest(token=token, value=Content(text=text))
    return (await client.promises.Resolve(request)).answer


async def test_steps_before_it_are_kept_and_the_others_taken_again(client: Client) -> None:
    old_token = await waiting(client)

    response = await restart(client, "m1", 2)

    assert answer(response) == "APPLIED"
    assert [(call.tool, call.started, call.ended) for step in response.steps for call in step.calls] == [
        ("book", True, True)
    ] * 3
    old = await client.status("m1")
    assert (old.fate, old.error.reason, old.restarted_as) == (FATE_CANCELLED, "RESTARTED", response.restarted_as)
    await asks(client, response.restarted_as)
    assert DONE == ["booked red", "booked green", "booked blue", "booked blue"]
    # the promise comes after the step, so another one is asked for
    assert await settle(client, old_token) == promise_pb2.SETTLEMENT_ANSWER_WITHDRAWN
    assert await settle(client, TOKENS.pop(), "go") == promise_pb2.SETTLEMENT_ANSWER_APPLIED
    done = await client.status(response.restarted_as, wait=10)
    assert (done.fate, done.result.text) == (FATE_DONE, "go")


async def test_with_all_steps_kept_its_promise_is_the_same(client: Client) -> None:
    token = await waiting(client)

    response = await restart(client, "m1", 100)

    waits = await asks(client, response.restarted_as)
    assert list(waits.awaits) == ["m1/answer"]
    assert await settle(client, token, "go") == promise_pb2.SETTLEMENT_ANSWER_APPLIED
    assert (await client.status(response.restarted_as, wait=10)).result.text == "go"
    assert DONE == ["booked red", "booked green", "booked blue"]


async def test_from_the_first_step_everything_is_done_again(client: Client) -> None:
    await waiting(client)

    response = await restart(client, "m1", 0)

    await asks(client, response.restarted_as)
    assert DONE == ["booked red", "booked green", "booked blue"] * 2


async def test_it_may_be_restarted_once_more(client: Client) -> None:
    await waiting(client)
    first = (await restart(client, "m1", 1)).restarted_as
    await asks(client, first)

    second = (await restart(client, first, 3)).restarted_as

    await asks(client, second)
    assert DONE == ["booked red", "booked green", "booked blue", "booked green", "booked blue"]
    assert (await client.status(first)).restarted_as == second


async def test_the_same_verb_again_does_nothing_more(client: Client) -> None:
    await waiting(client)
    first = await restart(client, "m1", 1, verb_id="v")

    again = await restart(client, "m1", 1, verb_id="v")

    assert (again.answer, again.restarted_as) == (first.answer, first.restarted_as)
    assert answer(await restart(client, "m1", 1)) == "TOO_LATE"
    await asks(client, first.restarted_as)
    assert DONE.count("booked green") == 2


async def test_a_dry_run_says_what_there_is_and_changes_nothing(client: Client) -> None:
    await waiting(client)

    response = await restart(client, "m1", 1, dry_run=True)

    assert (answer(response), len(response.steps)) == ("APPLIED", 3)
    assert (await client.status("m1")).fate == FATE_WAITING


async def test_what_runs_is_paused_first(client: Client) -> None:
    await client.send("work", "m1")
    await client.stands("m1", FATE_RUNNING)
    assert answer(await restart(client, "m1", 0)) in ("NOT_AT_REST", "NOT_FOUND")
    await client.send("ask", "m2", session="t")
    await asks(client, "m2", "t")
    assert await client.control("PAUSE", "m2", session="t") == ["APPLIED"]
    assert (await client.status("m2", session="t")).fate == FATE_PAUSED

    request = pb.ControlTurnsRequest(verb=pb.VERB_RESTART, selector=pb.TurnSelector(fates=[FATE_PAUSED]), from_step=0)
    (response,) = [one async for one in client.agents.ControlTurns(request)]

    assert (response.message.message_id, answer(response)) == ("m2", "APPLIED")
    await asks(client, response.restarted_as, "t")


async def test_a_dead_letter_goes_on_as_another_message_and_is_gone(client: Client) -> None:
    await client.send("take red broken", "m1")
    dead = await client.status("m1", wait=10)
    assert (dead.fate, dead.attempts) == (FATE_DEAD, 1)
    letters = await client.letters.ListDeadLetters(dead_letter_pb2.ListDeadLettersRequest())
    assert [one.message_id for one in letters.letters] == ["m1"]

    response = await restart(client, "m1", 1)

    assert answer(response) == "APPLIED"
    old = await client.status("m1")
    assert (old.restarted_as, old.attempts) == (response.restarted_as, 1)
    again = await client.status(response.restarted_as, wait=10)
    assert again.fate == FATE_DEAD  # the room is still broken
    assert DONE == ["booked red"]
    letters = await client.letters.ListDeadLetters(dead_letter_pb2.ListDeadLettersRequest())
    assert [one.message_id for one in letters.letters] == [response.restarted_as]


async def test_a_purged_letter_is_not_found(client: Client) -> None:
    await client.send("take broken", "m1")
    assert (await client.status("m1", wait=10)).fate == FATE_DEAD
    request = dead_letter_pb2.PurgeRequest(filter=dead_letter_pb2.DeadLetterFilter(reasons=["TOOL_FAILED"]))
    assert len([one async for one in client.letters.Purge(request)]) == 1

    assert answer(await restart(client, "m1", 0)) == "NOT_FOUND"


async def test_a_step_is_named(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="from_step"):
        await restart(client, "m1", None)
    with pytest.raises(InvalidArgument, match="from_step"):
        await client.controlled("PAUSE", messages=[MessageRef(session=SESSION, message_id="m1")], from_step=1)
