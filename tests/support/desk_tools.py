"""Tools and actors for revisions in tests."""

from collections.abc import Sequence
from typing import Any

from troupe.dataplane.tools.tool import tool


@tool(compensation="give-back")
async def take() -> str:
    """Take."""
    return "taken"


@tool
async def give_back(arguments: dict[str, Any], result: str) -> str:
    """Give back."""
    return "given back"


@tool
async def look(what: str) -> str:
    """Look."""
    return what


class Plain:
    async def receive(self, context: Any, message: Any) -> None: ...


class Batching(Plain):
    async def receive_batch(self, context: Any, messages: Sequence[Any]) -> None: ...


class Backward(Plain):
    schema = 3
