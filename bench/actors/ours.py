"""Round trips to actors in this process, through the whole turn path: `python -m bench.actors.ours SECONDS CALLERS`.

Each of CALLERS sends to an actor of its own and waits for the answer, by the gateway that `AgentService/Send` calls;
mailboxes and state are memory://.
"""

import asyncio
import sys

import meter

from bench.actors import runtime
from troupe.chassis import logs
from troupe.v1.agent_pb2 import SendRequest
from troupe.v1.envelope_pb2 import Content


async def main(seconds: float, callers: int) -> None:
    async with (
        runtime.opened("memory://", "memory://") as (broker, store),
        runtime.hosting(broker, store) as (gateway, _),
    ):
        measured = meter.Publishing(seconds)

        async def call(number: int) -> None:
            key, content = runtime.session(number), Content(text="one more")
            while measured.sending():
                await gateway.send_and_wait(key, SendRequest(content=content), 30.0)
                measured.confirmed()

        async with asyncio.TaskGroup() as tasks:
            for number in range(callers):
                tasks.create_task(call(number))
        measured.report()


if __name__ == "__main__":
    logs.configure("json", "warning", service="bench")
    runtime.run(main(float(sys.argv[1]), int(sys.argv[2])))
