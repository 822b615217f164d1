"""Activation of actors: `python -m bench.actors.activation STATE ACTORS RATE`.

So many sessions, each new, get one message each, RATE of them a second. An activation takes from its message's
delivery until its turn starts, as the message's ledger says; the session is loaded from the store in between.
"""

import asyncio
import json
import statistics
import sys
import time

from bench.actors import runtime
from troupe.chassis import logs
from troupe.chassis.wire import seconds
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import MessageStatus, SendRequest
from troupe.v1.envelope_pb2 import Content

WARM = 0.1
"""Share of the sessions that are not counted."""


async def main(state_url: str, actors: int, rate: float) -> None:
    took: list[float] = []
    async with (
        runtime.opened("memory://", state_url) as (broker, store),
        runtime.hosting(broker, store) as (gateway, _),
        asyncio.TaskGroup() as tasks,
    ):

        async def call(number: int) -> None:
            request = SendRequest(content=Content(text="one more"))
            took.append(waited(await gateway.send_and_wait(runtime.session(number), request, 30.0)))

        began = time.perf_counter()
        for number in range(actors):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            tasks.create_task(call(number))
    counted = sorted(took[int(actors * WARM) :])
    print(json.dumps({"median": statistics.median(counted), "p99": counted[int(0.99 * len(counted))]}))


def waited(status: MessageStatus) -> float:
    """Milliseconds from the delivery to the turn's start."""
    (row,) = (row for row in status.ledger.rows if row.cause == turn_pb2.LEDGER_CAUSE_MAILBOX_WAIT)
    return 1e3 * seconds(row.duration)


if __name__ == "__main__":
    logs.configure("json", "warning", service="bench")
    runtime.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
