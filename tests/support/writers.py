"""Senders of numbered messages for fleets of processes, who know what must have come of them."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from support.fleet_processes import Process, applied, end, send
from support.recording_actor import Operation

from troupe.v1 import turn_pb2

PAUSE = 0.15
"""Seconds from one confirm to a writer's next message: often enough that some are always under way, and the fleet, not
its writers, has the processors."""


class Writers:
    """Each sends numbered messages to a session of its own name, one after the other, through the gateways in turn."""

    def __init__(self, gateways: list[Process], count: int = 8) -> None:
        self.gateways = gateways
        self.sent: dict[str, list[str]] = {f"c{number}": [] for number in range(count)}
        self._stop = asyncio.Event()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator["Writers"]:
        """They write until the block is left."""
        async with asyncio.TaskGroup() as tasks:
            for name, sent in self.sent.items():
                tasks.create_task(self._write(name, sent))
            try:
                yield self
            finally:
                self._stop.set()

    async def more(self, each: int, names: Collection[str] | None = None) -> None:
        """Wait until every one, or every one of these, has sent so many more."""
        wanted = {name: len(sent) + each for name, sent in self.sent.items() if names is None or name in names}
        async with asyncio.timeout(60):
            while any(len(self.sent[name]) < count for name, count in wanted.items()):  # noqa: ASYNC110 - others write
                await asyncio.sleep(0.02)

    async def check(self, gateway: Process) -> None:
        """Every message has taken effect, once, in its order."""
        for name, sent in self.sent.items():
            ends = await asyncio.gather(*(end(gateway, name, message_id) for message_id in sent))
            assert {status.fate for status in ends} == {turn_pb2.FATE_DONE}
            assert (await applied(gateway, name)).operations == [(name, number + 1) for number in range(len(sent))]

    async def _write(self, name: str, sent: list[str]) -> None:
        gateways = itertools.cycle(self.gateways)
        while not self._stop.is_set():
            number = len(sent) + 1
            message_id = await send(next(gateways), name, Operation(name, number, seconds=(0.0, 0.05)[number % 2]))
            sent.append(message_id)
            await asyncio.sleep(PAUSE)
