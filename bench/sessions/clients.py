"""Streaming clients: `python -m bench.sessions.clients ADDRESS SESSIONS TURNS`.

Each session holds TURNS conversations one after another and reads its stream to the end; the sessions begin spread over
the time that one takes. Each asks for a name of its own. It prints how long each took and the tokens of its answers, by
that name, and the seconds of processor time that all of them took.
"""

import asyncio
import json
import random
import sys
import time
from typing import Any

from troupe.chassis.rpc_client import channel
from troupe.v1.agent_pb2 import ConverseRequest, SendRequest
from troupe.v1.agent_pb2_grpc import AgentServiceStub
from troupe.v1.envelope_pb2 import Content, SessionRef

ASKED = 'use the tool look-up with {{"name": "{}"}}'
SPREAD = 1.0
"""Seconds."""


async def main(address: str, sessions: int, turns: int) -> None:
    told: dict[str, tuple[float, int]] = {}
    spent = time.process_time()
    async with channel(address) as connection:
        stub: Any = AgentServiceStub(connection)

        async def talk(number: int) -> None:
            await asyncio.sleep(random.uniform(0, SPREAD))
            for turn in range(turns):
                name = f"{number * turns + turn:08}"
                content = Content(text=ASKED.format(name))
                message = SendRequest(session=SessionRef(agent="clerk", session=f"s{number}"), content=content)
                began = time.perf_counter()
                async for response in stub.Converse(ConverseRequest(message=message), timeout=60):
                    last = response.event
                seconds = time.perf_counter() - began
                assert last.HasField("completed"), last
                told[name] = (seconds, last.completed.usage.completion_tokens)

        async with asyncio.TaskGroup() as tasks:
            for number in range(sessions):
                tasks.create_task(talk(number))
    print(json.dumps({"told": told, "cpu": time.process_time() - spent}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
