"""`@tool`: a Python function that a model may call.

@tool(idempotent=True, timeout=5)
async def weather(city: Annotated[str, Meta(description="name of the city")]) -> str:
    '''Tomorrow's weather in a city.'''
"""

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, overload

from troupe.dataplane.tools.schema import Parameters

DEFAULT_TIMEOUT: Final = 30.0
"""Seconds."""

_key: ContextVar[str] = ContextVar("troupe_call")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function with what a model and a runtime must know of it. Calling it calls the function."""

    name: str
    """What the model calls it; unique within an agent."""
    description: str
    """What the model is told."""
    parameters: Parameters
    idempotent: bool
    """Whether a call may be run twice with the same effect as once."""
    timeout: float | None
    """Seconds for one call; None where the function does not say."""
    function: Callable[..., Any]
    resource: str = ""
    """`Tool/namespace/name` once it is declared."""
    compensation: str = ""
    """Name of the Tool, or `namespace/name`, that takes a call's effect back; empty: none does."""

    @property
    def seconds(self) -> float:
        """How long one call may take."""
        return DEFAULT_TIMEOUT if self.timeout is None else self.timeout

    @property
    def threaded(self) -> bool:
        """Whether it is a plain function, which runs in a thread; a thread cannot be stopped, only left behind."""
        return not inspect.iscoroutinefunction(self.function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    idempotent: bool = False,
    timeout: float | None = None,
    compensation: str = "",
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    idempotent: bool = False,
    timeout: float | None = None,
    compensation: str = "",
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Mark a function as a tool. Its schema comes from its type hints, its parameters' descriptions from
    `Annotated[..., msgspec.Meta(description=...)]` or from the docstring's `Args:` section, its own from the text
    before that. A coroutine function runs in the worker's event loop and must not block it; a plain function runs in a
    thread. `compensation` names the Tool that takes a call's effect back when its turn is cancelled; it is called with
    the call's `arguments` and `result`. Raises TypeError, at import, for what no model could call: no type hint, a type
    without a JSON form, `*args`, positional-only parameters, no docstring."""

    def mark(marked: Callable[..., Any]) -> Tool:
        if not inspect.isfunction(marked) or inspect.isgeneratorfunction(marked) or inspect.isasyncgenfunction(marked):
            raise TypeError(f"@tool marks a function that returns a value, not {marked!r}")
        said = marked.__name__ if name is None else name
        if not _NAME.fullmatch(said):
            raise TypeError(f"tool {said}: model servers take names of 1 to 64 letters, digits, _ and - only")
        text, arguments = _documented(marked)
        text = text if description is None else description
        if not text:
            raise TypeError(f"tool {said} needs a docstring: it is what the model knows of it")
        if timeout is not None and timeout <= 0:
            raise TypeError(f"tool {said}: timeout is seconds above 0, not {timeout}")
        parameters = Parameters.of(marked, said, arguments)
        return Tool(said, text, parameters, idempotent, timeout, marked, compensation=compensation)

    return mark if function is None else mark(function)


def idempotency_key() -> str:
    """Names the call that the tool which asks carries out, and stays the same when that is carried out again: for
    services that take such a key. Raises LookupError outside of a call."""
    return _key.get()


@contextmanager
def keyed(key: str) -> Iterator[None]:
    """Inside, `idempotency_key` answers `key`."""
    token = _key.set(key)
    try:
        yield
    finally:
        _key.reset(token)


def _documented(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The docstring's text, and what its `Args:` section says of each parameter."""
    text, _, section = (inspect.getdoc(function) or "").partition("\nArgs:\n")
    arguments: dict[str, str] = {}
    current = ""
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        name, colon, rest = line.strip().partition(":")
        name = name.partition("(")[0].strip()
        if colon and name.isidentifier() and _indent(line) <= _indent(section):
            current = name
            arguments[current] = rest.strip()
        elif current and line.strip():
            arguments[current] += " " + line.strip()
    return text.strip(), arguments


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
