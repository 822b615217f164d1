"""Taking back what a cancelled turn has done: newest call first, once each."""

from typing import Any

import pytest
from support.acting import acting, receiving
from support.attempts import Attempts

from troupe.dataplane.actors.behaviour import NotCompensated
from troupe.dataplane.behaviours.actor_context import ActorContext
from troupe.dataplane.state.errors import CancelRecorded
from troupe.dataplane.tools.tool import tool

DONE = list[str]()


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    DONE.clear()


@tool
async def book(what: str) -> dict[str, str]:
    """Book something."""
    DONE.append(f"book {what}")
    return {"number": f"n-{what}"}


@tool
async def note(text: str) -> str:
    """Write a note."""
    if text == "nothing":
        raise LookupError("there is nothing")
    DONE.append(f"note {text}")
    return "noted"


@tool
async def release(arguments: dict[str, str], result: dict[str, str]) -> str:
    """Take a booking back."""
    DONE.append(f"release {arguments['what']} {result['number']}")
    if arguments["what"] == "stuck":
        raise OSError("it is stuck")
    return "released"


@tool(idempotent=True)
async def tear(arguments: dict[str, str], result: str) -> str:
    """Tear a note up."""
    DONE.append(f"tear {arguments['text']} {result}")
    return "torn"


COMPENSATIONS = {"book": release, "note": tear}


async def three(context: ActorContext) -> None:
    await context.call_tool("book", what="stuck")
    await context.call_tool("note", text="hello")
    await context.call_tool("book", what="rose")


def behaviour(attempts: Attempts, receive: Any = three, compensations: Any = None) -> Any:
    return acting(receiving(receive), attempts, book, note, compensations=compensations or COMPENSATIONS)


async def cancelled(attempts: Attempts, receive: Any = three) -> None:
    await behaviour(attempts, receive).run(attempts.begun())
    DONE.clear()


async def test_calls_are_taken_back_newest_first_with_what_they_were_given_and_returned() -> None:
    attempts = Attempts()
    await cancelled(attempts)
    with pytest.raises(NotCompensated, match=r"taken back: book \(call book/.*\): TOOL_FAILED: .*stuck; see to that"):
        await behaviour(attempts).compensate(attempts.begun())
    assert DONE == ["release rose n-rose", "tear hello noted", "release stuck n-stuck"]
    assert [starts for _, starts, compensates in attempts.writes[6:] if compensates] == [True] * 3
    assert attempts.shown[0].startswith("→ compensation/book/")


async def test_what_was_taken_back_is_not_taken_back_again() -> None:
    attempts = Attempts()
    await cancelled(attempts)
    for _ in range(2):
        with pytest.raises(NotCompensated, match="it is stuck"):
            await behaviour(attempts).compensate(attempts.begun())
    assert len(DONE) == 3


async def test_a_compensation_that_left_no_result_runs_again_only_where_it_is_idempotent() -> None:
    attempts = Attempts()
    await cancelled(attempts)
    attempts.refuses = {7: OSError("the worker dies"), 9: OSError("the worker dies")}
    for _ in range(2):
        with pytest.raises(OSError, match="the worker dies"):
            await behaviour(attempts).compensate(attempts.begun())
    with pytest.raises(NotCompensated, match=r"an attempt that ended before its result.*it is stuck"):
        await behaviour(attempts).compensate(attempts.begun())
    assert DONE == ["release rose n-rose", "tear hello noted", "tear hello noted", "release stuck n-stuck"]


async def test_failed_calls_and_calls_without_a_compensation_or_a_result_are_left_alone() -> None:
    async def receive(context: ActorContext) -> None:
        await context.call_tool("book", what="rose")
        await context.call_tool("note", text="nothing")

    attempts = Attempts()
    with pytest.raises(Exception, match="nothing"):
        await behaviour(attempts, receive).run(attempts.begun())
    attempts.kept["start/late"] = next(kept for step, kept in attempts.kept.items() if "start/note" in step)
    DONE.clear()
    await behaviour(attempts, compensations={"note": tear}).compensate(attempts.begun())
    assert DONE == []


async def test_a_kill_stops_the_compensations() -> None:
    attempts = Attempts()
    await cancelled(attempts)
    attempts.refuses = {8: CancelRecorded("KILLED", "killed", kill=True)}
    with pytest.raises(CancelRecorded):
        await behaviour(attempts).compensate(attempts.begun())
    assert DONE == ["release rose n-rose"]


async def test_a_compensation_that_its_tool_cannot_take_is_not_tried_again_and_the_others_are() -> None:
    @tool
    async def wrong(arguments: dict[str, int], result: str) -> str:
        """Takes numbers."""
        raise AssertionError

    attempts = Attempts()
    await cancelled(attempts)
    with pytest.raises(NotCompensated, match=r"note .*INVALID_ARGUMENTS"):
        await behaviour(attempts, compensations={"book": release, "note": wrong}).compensate(attempts.begun())
    assert DONE == ["release rose n-rose", "release stuck n-stuck"]
    assert any(step.startswith("result/compensation/note") for step in attempts.kept)
