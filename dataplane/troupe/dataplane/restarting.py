"""RESTART: the message that goes on in place of one that is at rest."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.broker.port import Broker, HeldLetter
from troupe.chassis.clock import Clock
from troupe.chassis.errors import Unavailable
from troupe.chassis.wire import timestamp
from troupe.dataplane.behaviours import steps
from troupe.dataplane.behaviours.step_names import RESULT, START
from troupe.dataplane.dead_letters.filter import Filter
from troupe.dataplane.dead_letters.letters import matching
from troupe.dataplane.dead_letters.redriving import by_server, lasted
from troupe.dataplane.dead_letters.shown import message_in
from troupe.dataplane.state.control import Restart
from troupe.dataplane.state.port import Resting, StateStore
from troupe.dataplane.state.session import Entry
from troupe.v1.agent_pb2 import JournaledCall, JournaledStep
from troupe.v1.envelope_pb2 import Envelope

STREAM: Final = "restart/"
"""What the streams of such messages begin with, before their ids: each has its own."""
DIGITS: Final = 32
"""Hexadecimal digits of such an id."""
PAUSES: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 0.8, 0.8)
"""Seconds between two looks for a dead letter that is in somebody's hands."""

log = structlog.get_logger()


def restarted_as(verb_id: str, message_id: str) -> str:
    """The id of the message that goes on for this one, within its session."""
    return "restart-" + hashlib.sha256(f"{verb_id}\0{message_id}".encode()).hexdigest()[:DIGITS]


def going_on(old: Envelope, message_id: str, now: float) -> Envelope:
    """The message that goes on for the old one: new in every respect but what it says, for whom, and what it belongs
    to. It is good for as long as the old one was at first."""
    new = Envelope()
    new.CopyFrom(old)
    new.id, new.correlation_id = message_id, old.correlation_id or old.id
    new.number.stream, new.number.sequence = f"{STREAM}{message_id}", 1
    new.first_sent.CopyFrom(timestamp(now))
    new.expires.CopyFrom(timestamp(now + lasted(old)))
    new.attempt = new.redrives = 0
    new.reject_when_busy = False
    for field in ("deaths", "due"):
        new.ClearField(field)
    return new


def restart(
    found: Resting, old: Envelope, step: int, key: SessionKey, message_id: str, new_id: str, now: float
) -> Restart:
    """What the store is to do so that the message `new_id` goes on from `step`."""
    new = going_on(old, new_id, now)
    kept = steps.prefix(found.journal, found.promises, step, key, message_id)
    number = Number(new.number.stream, new.number.sequence)
    attributes = tuple(sorted(new.attributes.items()))
    entry = Entry(number, new_id, found.digest, placed=now, due=now, attributes=attributes)
    return Restart(entry, new.SerializeToString(), kept.journal, kept.promises, found.steps)


def journaled(found: Resting) -> list[JournaledStep]:
    """What the message has done."""
    return [
        JournaledStep(
            calls=[
                JournaledCall(
                    call_id=call.call_id,
                    tool=call.tool,
                    started=f"{START}{call.call_id}" in found.journal,
                    ended=f"{RESULT}{call.call_id}" in found.journal,
                )
                for call in calls
            ]
        )
        for calls in steps.steps(found.journal)
    ]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A RESTART of one message, as far as there is anything to restart."""

    restart: Restart | None = None
    steps: Sequence[JournaledStep] = ()
    letter: HeldLetter | None = None
    """That goes where the RESTART is APPLIED."""

    async def done(self) -> None:
        """It was APPLIED. A letter that stays does no harm: its message has ended."""
        if self.letter is not None:
            try:
                await self.letter.remove()
            except Unavailable as error:
                log.info("letter of a restarted message stays", letter=self.letter.letter.id, error=str(error))


class Restarts:
    """One worker's."""

    def __init__(self, broker: Broker, store: StateStore, clock: Clock) -> None:
        self._broker, self._store, self._clock = broker, store, clock
        # A broker shows a letter to one of those who look at the same time.
        self._looking = asyncio.Lock()

    @asynccontextmanager
    async def prepared(self, verb_id: str, key: SessionKey, message_id: str, step: int) -> AsyncIterator[Prepared]:
        """What to record for this message, so that another goes on from `step`. Inside, nobody else redrives or purges
        its dead letter, where the broker shows it to one at a time. One that is in somebody's hands is looked for again
        for some seconds; then, and where store or broker cannot be used, raises Unavailable."""
        for pause in (0.0, *PAUSES):
            await self._clock.sleep(pause)
            # Whoever had the letter may have ended its message, or sent it again.
            found = await self._store.resting(key, message_id)
            if found is None:
                yield Prepared()
                return
            async with self._message(found, key, message_id) as (old, letter):
                if old is not None:
                    new_id, now = restarted_as(verb_id, message_id), self._clock.now()
                    yield Prepared(restart(found, old, step, key, message_id, new_id, now), journaled(found), letter)
                elif found.purged:
                    yield Prepared()
                else:
                    continue
                return
        raise Unavailable(
            "LETTER_HELD",
            f"the dead letter of message {message_id} is not to be seen: somebody looks at it, redrives or purges it; "
            "try again",
            retry_after=PAUSES[-1],
        )

    @asynccontextmanager
    async def _message(
        self, found: Resting, key: SessionKey, message_id: str
    ) -> AsyncIterator[tuple[Envelope | None, HeldLetter | None]]:
        """As it waits, or from its dead letter, with that; None where the letter is not to be seen."""
        if found.envelope:
            yield Envelope.FromString(found.envelope), None
            return
        wanted = Filter(
            key.tenant, namespace=key.namespace, agent=key.agent, session=key.session, message_id=message_id
        )
        async with (
            self._looking,
            self._broker.dead_letters() as letters,
            aclosing(matching(letters, wanted)) as chosen,
        ):
            async for held in chosen:
                if not by_server(held.letter):
                    yield message_in(held.letter), held
                    return
            yield None, None
