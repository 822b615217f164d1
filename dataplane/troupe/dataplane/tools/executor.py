"""Runs tools in the worker's own process. Whatever a tool does, the caller gets an outcome."""

import asyncio
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from troupe.dataplane.tools.schema import InvalidArguments
from troupe.dataplane.tools.tool import Tool

MAX_RESULT: Final = 256 * 1024
"""Bytes of a result in UTF-8."""
MAX_FAILURE: Final = 4 * 1024
"""Characters of a failure's text."""


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """What a call came to. Failed: `content` is `CODE: why`, written for the model."""

    content: str
    failed: bool = False
    code: str = ""
    """INVALID_ARGUMENTS, TOOL_FAILED, TOOL_TIMEOUT or RESULT_TOO_LARGE where it failed."""
    json: bool = False
    """`content` is the JSON of what the tool returned; else it returned text."""
    unknown: bool = False
    """The tool was given up while it ran and is not idempotent: nobody can know whether it acted."""


class ToolExecutor(Protocol):
    """Carries out calls, at one level of isolation."""

    async def call(self, tool: Tool, arguments: str) -> ToolOutcome:
        """Run the tool once with the arguments, JSON text, within its time. Raises nothing but CancelledError."""
        ...


class InProcessExecutor:
    """For tools that are trusted: coroutine functions in the event loop, plain ones in its default thread pool.

    A plain function that runs out of time goes on in its thread; only its result is dropped."""

    async def call(self, tool: Tool, arguments: str) -> ToolOutcome:
        try:
            values = tool.parameters.parse(arguments)
        except InvalidArguments as error:
            return failure("INVALID_ARGUMENTS", str(error))
        scope = asyncio.timeout(tool.seconds)
        try:
            async with scope:
                result = await (asyncio.to_thread(tool, **values) if tool.threaded else tool(**values))
        except asyncio.CancelledError as error:
            if _cancelled_from_outside():
                raise
            return _raised(error)
        except (Exception, SystemExit) as error:
            if scope.expired() and isinstance(error, TimeoutError):
                return _timed_out(tool)
            return _raised(error)
        return _encoded(tool, result)


def failure(code: str, why: str, *, unknown: bool = False) -> ToolOutcome:
    """A failed outcome as the model sees it."""
    if len(why) > MAX_FAILURE:
        why = why[:MAX_FAILURE] + " …"
    return ToolOutcome(f"{code}: {why}", failed=True, code=code, unknown=unknown)


def _cancelled_from_outside() -> bool:
    """A tool can also raise CancelledError by itself, by awaiting something that was cancelled."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _raised(error: BaseException) -> ToolOutcome:
    text = str(error)
    return failure("TOOL_FAILED", f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _timed_out(tool: Tool) -> ToolOutcome:
    return failure("TOOL_TIMEOUT", f"{tool.name} took longer than {tool.seconds:g} s", unknown=not tool.idempotent)


def _encoded(tool: Tool, result: Any) -> ToolOutcome:
    try:
        encoded = result.encode() if isinstance(result, str) else msgspec.json.encode(result)
    except (TypeError, ValueError, RecursionError) as error:
        return failure("TOOL_FAILED", f"{tool.name} returned a {type(result).__name__} without a JSON form: {error}")
    if len(encoded) > MAX_RESULT:
        why = f"{tool.name} returned {len(encoded)} bytes, the limit is {MAX_RESULT}; ask it for less"
        return failure("RESULT_TOO_LARGE", why)
    return ToolOutcome(encoded.decode(), json=not isinstance(result, str))
