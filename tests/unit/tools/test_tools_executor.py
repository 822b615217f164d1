"""Whatever a tool does, its caller gets an outcome."""

import asyncio
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from troupe.dataplane.tools.executor import MAX_RESULT, InProcessExecutor, ToolOutcome
from troupe.dataplane.tools.tool import tool


async def outcome(function: Callable[..., Any], arguments: str = "", **options: Any) -> ToolOutcome:
    function.__doc__ = function.__doc__ or "Acts."
    async with asyncio.timeout(10):
        return await InProcessExecutor().call(replace(tool(function), **options), arguments)


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("text", "text"),
        ("", ""),
        (None, "null"),
        (5, "5"),
        ({"a": [1, 2.5]}, '{"a":[1,2.5]}'),
        (10**30, "1" + "0" * 30),
    ],
)
async def test_a_text_is_taken_as_it_is_and_all_else_as_json(value: Any, content: str) -> None:
    async def act() -> Any:
        return value

    assert await outcome(act) == ToolOutcome(content, json=not isinstance(value, str))


async def test_a_plain_function_runs_beside_the_event_loop() -> None:
    def act(what: str) -> bool:
        return threading.current_thread() is threading.main_thread()

    assert await outcome(act, '{"what": "a"}') == ToolOutcome("false", json=True)


async def test_wrong_arguments_reach_no_tool() -> None:
    async def act(what: str) -> str:
        raise AssertionError

    result = await outcome(act, '{"what": 1}')
    assert (result.failed, result.code, result.unknown) == (True, "INVALID_ARGUMENTS", False)


def raises(error: BaseException) -> Callable[..., Any]:
    async def act() -> None:
        raise error

    return act


class Silent(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "content"),
    [
        (ValueError("no such city"), "TOOL_FAILED: ValueError: no such city"),
        (Silent(), "TOOL_FAILED: Silent"),
        (TimeoutError("upstream"), "TOOL_FAILED: TimeoutError: upstream"),
        (SystemExit(3), "TOOL_FAILED: SystemExit: 3"),
        (asyncio.CancelledError("of its own"), "TOOL_FAILED: CancelledError: of its own"),
        (ExceptionGroup("two", [ValueError(), ValueError()]), "TOOL_FAILED: ExceptionGroup: two (2 sub-exceptions)"),
        (RecursionError(), "TOOL_FAILED: RecursionError"),
    ],
)
async def test_what_a_tool_raises_is_its_result(error: BaseException, content: str) -> None:
    assert await outcome(raises(error)) == ToolOutcome(content, failed=True, code="TOOL_FAILED")


async def test_what_a_plain_function_raises_is_its_result_too() -> None:
    def act() -> None:
        sys.exit("enough")

    assert (await outcome(act)).content == "TOOL_FAILED: SystemExit: enough"


async def test_a_long_failure_is_cut() -> None:
    assert len((await outcome(raises(ValueError("x" * 100_000)))).content) < 5000


@pytest.mark.parametrize("value", [object(), {1j}, "\ud800", {"a": {"b": object()}}])
async def test_what_has_no_json_form_is_a_failure(value: Any) -> None:
    async def act() -> Any:
        return value

    result = await outcome(act)
    assert result.code == "TOOL_FAILED"
    assert "without a JSON form" in result.content


async def test_a_result_is_bounded() -> None:
    async def act(size: int) -> str:
        return "ü" * (size // 2)

    assert not (await outcome(act, f'{{"size": {MAX_RESULT}}}')).failed
    result = await outcome(act, f'{{"size": {MAX_RESULT + 2}}}')
    assert result == ToolOutcome(
        "RESULT_TOO_LARGE: act returned 262146 bytes, the limit is 262144; ask it for less",
        failed=True,
        code="RESULT_TOO_LARGE",
    )


async def never() -> None:
    """Ends never."""
    await asyncio.Event().wait()


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_tool_that_takes_too_long_is_given_up_and_perhaps_nobody_knows(idempotent: bool) -> None:
    result = await outcome(never, timeout=0.01, idempotent=idempotent)
    assert result.content == "TOOL_TIMEOUT: never took longer than 0.01 s"
    assert (result.code, result.unknown) == ("TOOL_TIMEOUT", not idempotent)


async def test_a_plain_function_that_takes_too_long_is_left_behind() -> None:
    release = threading.Event()

    def act() -> None:
        release.wait(10)

    try:
        assert (await outcome(act, timeout=0.01)).unknown
    finally:
        release.set()


async def test_cancelling_stops_the_tool_and_is_not_swallowed() -> None:
    running, stopped = asyncio.Event(), asyncio.Event()

    async def act() -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    call = asyncio.create_task(outcome(act))
    await asyncio.wait_for(running.wait(), 5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert stopped.is_set()
