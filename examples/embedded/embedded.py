"""A program with a fleet of its own inside: python embedded.py [DATA] adds a few numbers up.

Without DATA everything is in memory and goes with the process; with it, the next run goes on where this one ended.
"""

import asyncio
import sys
from pathlib import Path

from troupe.dataplane.runtime import Runtime

COUNTER = Path(__file__).parent.parent / "counter"


async def main(data: str | None) -> None:
    async with Runtime(data=data, python_path=[COUNTER]) as runtime:
        await runtime.apply(COUNTER)
        for number in (1, 2, 3):
            status = await runtime.send("counter", "one", str(number), wait=10)
            print("the sum is", status.result.text)
        async for event in runtime.converse("counter", "one", "?"):
            print(event.WhichOneof("kind"), event.completed.result.text)


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
