"""A sign of life for waits that take longer than a second, on a terminal only."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from troupe.cli.output import Output

PATIENCE = 1.0
"""Seconds before it shows: what is quicker would only flicker."""


@contextlib.asynccontextmanager
async def waiting(output: Output, text: str) -> AsyncIterator[None]:
    """Show `text` beside a spinner while the body takes longer than PATIENCE. Printing goes on above it."""
    if not output.human or not output.console.is_terminal:
        yield
        return

    async def show() -> None:
        await asyncio.sleep(PATIENCE)
        with output.console.status(text):
            await asyncio.Event().wait()

    spinner = asyncio.create_task(show())
    try:
        yield
    finally:
        spinner.cancel()
        await asyncio.wait([spinner])
