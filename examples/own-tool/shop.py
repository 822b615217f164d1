"""The tools of a fruit shop."""

from typing import Annotated, Literal

from msgspec import Meta

from troupe.dataplane.tools.tool import tool

CENTS = {"apple": 30, "pear": 45}


@tool(idempotent=True, timeout=5)
async def price(
    fruit: Annotated[Literal["apple", "pear"], Meta(description="what to buy")],
    pieces: Annotated[int, Meta(description="how many", ge=1, le=100)] = 1,
) -> dict[str, int]:
    """The price of some fruit, in cents."""
    return {"cents": CENTS[fruit] * pieces}
