"""What idle sessions take: `python -m bench.sessions.idle STATE SESSIONS`.

So many actors get one message each, and stay in memory. Their state is in a store outside of this process; it prints by
how many megabytes the process has grown since its first few hundred.
"""

import asyncio
import gc
import json
import os
import sys
from pathlib import Path

from bench.actors import runtime
from troupe.chassis import logs
from troupe.v1.agent_pb2 import SendRequest
from troupe.v1.envelope_pb2 import Content

BASE = 500
"""Sessions that the process has when the base is read: what it allocates once is in there."""
AT_ONCE = 100


async def main(state_url: str, sessions: int) -> None:
    async with (
        runtime.opened("memory://", state_url) as (broker, store),
        runtime.hosting(broker, store) as (gateway, host),
    ):

        async def call(numbers: range) -> None:
            for number in numbers:
                await gateway.send_and_wait(
                    runtime.session(number), SendRequest(content=Content(text="one more")), 30.0
                )

        async def fill(numbers: range) -> None:
            async with asyncio.TaskGroup() as tasks:
                for first in range(AT_ONCE):
                    tasks.create_task(call(numbers[first::AT_ONCE]))

        await fill(range(BASE))
        base = resident()
        await fill(range(BASE, BASE + sessions))
        assert host.hot == BASE + sessions, f"{host.hot} sessions are in memory"
        print(json.dumps({"megabytes": resident() - base}))


def resident() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    logs.configure("json", "warning", service="bench")
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
