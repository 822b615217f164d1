"""RESTART of dead letters over every broker: each is found, also where many are restarted at once."""

import asyncio

from support.dead_letter_desk import Desk
from support.fake_clock import FakeClock

from troupe.broker.addressing import SessionKey
from troupe.broker.port import DeadLetter
from troupe.dataplane.restarting import Restarts
from troupe.v1.envelope_pb2 import Envelope


async def test_many_letters_are_found_at_once_and_go(desk: Desk) -> None:
    """A broker shows a letter to one of those who look at the same time."""
    made = [await desk.keep(number) for number in range(20)]
    restarts = Restarts(desk.broker, desk.store, FakeClock())

    async def restart(letter: DeadLetter) -> str:
        key = SessionKey.parse(letter.session)
        async with restarts.prepared("v", key, letter.message_id, 0) as prepared:
            if prepared.restart is None:
                return "not found"
            await prepared.done()
            return Envelope.FromString(prepared.restart.envelope).content.text

    async with asyncio.timeout(30):
        found = await asyncio.gather(*map(restart, made))

    assert found == [f"text {number}" for number in range(20)]
    assert await desk.left() == []
