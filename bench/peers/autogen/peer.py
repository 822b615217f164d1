"""AutoGen core: round trips to agents in one process, `python peer.py SECONDS CALLERS`.

Its single-threaded runtime on uvloop; each caller sends to an agent of its own, which counts and answers.
"""

import asyncio
import sys
from dataclasses import dataclass

import meter
import uvloop
from autogen_core import AgentId, MessageContext, RoutedAgent, SingleThreadedAgentRuntime, message_handler


@dataclass
class Ask:
    text: str


@dataclass
class Answer:
    text: str


class Counter(RoutedAgent):
    def __init__(self) -> None:
        super().__init__("counts")
        self._count = 0

    @message_handler
    async def on_ask(self, message: Ask, context: MessageContext) -> Answer:
        self._count += 1
        return Answer(str(self._count))


async def main(seconds: float, callers: int) -> None:
    runtime = SingleThreadedAgentRuntime()
    await Counter.register(runtime, "counter", Counter)
    runtime.start()
    measured = meter.Publishing(seconds)

    async def call(number: int) -> None:
        agent = AgentId("counter", f"s{number}")
        while measured.sending():
            await runtime.send_message(Ask("one more"), agent)
            measured.confirmed()

    async with asyncio.TaskGroup() as tasks:
        for number in range(callers):
            tasks.create_task(call(number))
    await runtime.stop()
    measured.report()


uvloop.run(main(float(sys.argv[1]), int(sys.argv[2])))
