"""The tool that the measured agent calls."""

import asyncio

from troupe.dataplane.tools.tool import tool

TAKES = 0.05
"""Seconds."""


@tool(idempotent=True, timeout=10)
async def look_up(name: str) -> str:
    """Look a name up."""
    await asyncio.sleep(TAKES)
    return "found"
