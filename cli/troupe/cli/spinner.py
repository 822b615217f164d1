"""A sign of life for waits that take longer than a second, on a terminal only."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from troupe.cli.output import Output

PATIENCE = 1.0
"""Seconds before it shows: what is quicker would only flicker."""


@contextlib.asynccontextmanager
async def waiting(output: Output, text: str) -> AsyncIterator[Callable[[str], None]]:
    """Show `text` beside a spinner while the body takes longer than PATIENCE; the body may call what it gets with other
    text. Printing goes on above it."""
    if not output.human or not output.console.is_terminal:
        yield lambda _: None
        return
    status = output.console.status(text)

    async def show() -> None:
        await asyncio.sleep(PATIENCE)
        with status:
            await asyncio.Event().wait()

    spinner = asyncio.create_task(show())
    try:
        yield status.update
    finally:
        spinner.cancel()
        await asyncio.wait([spinner])
