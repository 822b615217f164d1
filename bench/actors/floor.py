"""What a round trip costs where nothing is kept: `python -m bench.actors.floor SECONDS CALLERS`.

Each caller puts a message, as protobuf bytes, into the asyncio.Queue of an actor of its own, and waits for a future.
"""

import asyncio
import sys

import meter

from troupe.v1.envelope_pb2 import Content, Envelope

Waiting = tuple[bytes, asyncio.Future[bytes]]


async def count(mailbox: asyncio.Queue[Waiting]) -> None:
    count = 0
    while True:
        body, answer = await mailbox.get()
        assert Envelope.FromString(body).content.text
        count += 1
        answer.set_result(Content(text=str(count)).SerializeToString())


async def main(seconds: float, callers: int) -> None:
    measured, loop = meter.Publishing(seconds), asyncio.get_running_loop()

    async def call() -> None:
        mailbox: asyncio.Queue[Waiting] = asyncio.Queue(1)
        counting = loop.create_task(count(mailbox))
        while measured.sending():
            answer: asyncio.Future[bytes] = loop.create_future()
            await mailbox.put((Envelope(content=Content(text="one more")).SerializeToString(), answer))
            Content.FromString(await answer)
            measured.confirmed()
        counting.cancel()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(call())
    measured.report()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), int(sys.argv[2])))
