"""Whoever redrives dead letters, also in the middle of faults, and also dying before the letter is removed."""

import random

from fault.simulation.history import History
from fault.simulation.server import Server
from fault.simulation.store import WatchedStore
from fault.simulation.worker import LoopClock

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.chassis.wire import timestamp
from troupe.dataplane.state.rules import REDRIVABLE
from troupe.dataplane.state.session import Record
from troupe.v1.envelope_pb2 import Envelope


class Redriver:
    """See the module's text."""

    def __init__(self, server: Server, store: WatchedStore, dice: random.Random, history: History) -> None:
        self._server, self._store, self._dice, self._history = server, store, dice, history
        self._streams = 0
        self.sound = False
        """It no longer dies."""

    async def redrive(self, *, everything: bool = False) -> None:
        """Send the letters, or some of them, to their mailboxes again, and remove them."""
        async with self._server.broker.dead_letters() as letters:
            async for held in letters:
                letter = held.letter
                key = SessionKey.parse(letter.session)
                if not everything and self._dice.random() < 0.5:
                    continue
                record = await self._store.record(key, letter.message_id)
                if record is None or await self._lives(key, letter.message_id, record):
                    continue
                if record.fate in REDRIVABLE:
                    # One that died after its confirm is started again, and finds the letter where it was.
                    for _ in range(self._dice.choice((1, 1, 2))):
                        await self._send(key, Envelope.FromString(letter.body))
                    if not self.sound and self._dice.random() < 0.2:
                        return
                await held.remove()

    async def _lives(self, key: SessionKey, message_id: str, record: Record) -> bool:
        """It came again, and waits or runs: the letter may be of its next end, which is not on record yet."""
        return record.redriven and await self._store.waiting(key, message_id) is not None

    async def _send(self, key: SessionKey, envelope: Envelope) -> None:
        self._streams += 1
        now = LoopClock().now()
        envelope.number.stream, envelope.number.sequence = f"redrive-{self._streams}", 1
        envelope.redrives += 1
        envelope.first_sent.CopyFrom(timestamp(now))
        envelope.expires.CopyFrom(timestamp(now + 24 * 3600.0))
        self._history.log(f"REDRIVEN {envelope.id} in {key}")
        self._history.counts["redriven"] += 1
        self._history.redriven[key, envelope.id] += 1
        await self._server.broker.publish(envelope)
        if self.sound or self._dice.random() < 0.8:
            number = Number(envelope.number.stream, envelope.number.sequence)
            await self._store.redrive(key, envelope.id, number)
