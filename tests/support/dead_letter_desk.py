"""The dead letters of one fleet over any broker, for tests that give messages up and look what becomes of them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from support.brokers import Opened
from support.fake_clock import FakeClock
from support.letters import DIED, given_up, letter
from support.mailboxes import Receiver, queue_of

from troupe.broker.addressing import DEFAULT, SessionKey
from troupe.broker.order import Number
from troupe.broker.port import AGENTS, Broker, DeadLetter, HeldLetter
from troupe.chassis.clock import Clock
from troupe.chassis.errors import TroupeError, Unavailable
from troupe.chassis.ids import uuid7
from troupe.dataplane.dead_letters.filter import Filter
from troupe.dataplane.dead_letters.letters import DeadLetters
from troupe.dataplane.state.port import StateStore, TurnCommit
from troupe.dataplane.state.session import Owner, Record
from troupe.v1 import turn_pb2
from troupe.v1.dead_letter_pb2 import PurgeResponse, RedriveOutcome, RedriveResponse
from troupe.v1.envelope_pb2 import Content, Envelope
from troupe.v1.turn_pb2 import Fate

EVERY = Filter(DEFAULT)
OWNER = Owner(shard=0, epoch=1, instance="instance")
DEAD, DONE = turn_pb2.FATE_DEAD, turn_pb2.FATE_DONE


async def at_once() -> None:
    pass


async def whole(tenant: str, content: Content) -> Content:
    return Content(text=f"{tenant}: whole") if content.HasField("blob") else content


@dataclass
class Desk:
    """The dead letters of one fleet, its back ends beside them."""

    broker: Broker
    store: StateStore
    opened: Opened

    def letters(self, broker: Any = None, clock: Clock | None = None) -> DeadLetters:
        return DeadLetters(broker or self.broker, self.store, clock or FakeClock(), ready=at_once, whole=whole)

    async def keep(self, number: int, fate: Fate.ValueType | None = DEAD, **parts: Any) -> DeadLetter:
        """Give a message up, in a session of its own, and settle it as `fate`."""
        envelope = given_up(session=f"s{number}", text=f"text {number}")
        made = letter(envelope, **parts)
        if fate is not None:
            await self.settle(envelope, fate)
        await self.broker.dead_letter(made)
        return made

    async def settle(self, envelope: Envelope, fate: Fate.ValueType) -> None:
        """As a turn ends, under a number that has not been used."""
        key = SessionKey.of(envelope.target)
        version = (await self.store.load(key)).version
        record = Record(fate, Fate.Name(fate).encode(), b"digest")
        number = Number(uuid7(), 1)
        ended = TurnCommit(key=key, number=number, message_id=envelope.id, record=record, version=version, now=DIED)
        await self.store.commit(OWNER, ended)

    async def redrive(self, wanted: Filter = EVERY, **options: Any) -> list[RedriveResponse]:
        given = {"pool": AGENTS, "limit": 0, "rate": 0.0, "dry_run": False, **options}
        return [one async for one in self.letters().redrive(wanted=wanted, **given)]

    async def purge(self, wanted: Filter = EVERY, **options: Any) -> list[PurgeResponse]:
        given = {"pool": AGENTS, "limit": 0, "dry_run": False, **options}
        return [one async for one in self.letters().purge(wanted=wanted, **given)]

    async def left(self, pool: str = AGENTS) -> list[str]:
        """Ids of the letters that are there."""
        async with self.broker.dead_letters(pool) as held:
            return sorted([one.letter.id async for one in held])

    async def mailed(self, count: int, queue: str = "") -> list[Envelope]:
        """The first `count` messages in the mailbox, and that there are no more."""
        receiver = Receiver()
        queue = queue or queue_of(0)
        subscription = await self.broker.consume(queue, receiver, prefetch=10_000)
        await receiver.received(count)
        await self.opened.quiet()
        assert len(receiver.deliveries) == count
        await subscription.close()
        return [Envelope.FromString(one.body) for one in receiver.deliveries]


def outcomes(results: list[RedriveResponse]) -> list[str]:
    return [RedriveOutcome.Name(one.outcome).removeprefix("REDRIVE_OUTCOME_") for one in results]


class Jumping(FakeClock):
    """Time passes by itself when somebody sleeps."""

    async def sleep(self, seconds: float) -> None:
        self.advance(max(0.0, seconds))


class Through:
    """The broker, but that it fails as a test says: `refuse` what is published in these streams, `keeps` letters that
    are to go. `before` is called before each message."""

    def __init__(
        self,
        broker: Any,
        *,
        refuse: dict[str, TroupeError] | None = None,
        keeps: bool = False,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        self._broker, self._refuse, self._keeps, self._before = broker, refuse or {}, keeps, before
        self.shown = 0

    async def publish_many(self, envelopes: list[Envelope], pool: str = "") -> list[TroupeError | None]:
        answers: list[TroupeError | None] = []
        for envelope in envelopes:
            self._before()
            refused = self._refuse.get(envelope.number.stream)
            if refused is None:
                await self._broker.publish(envelope, pool)
            answers.append(refused)
        return answers

    @asynccontextmanager
    async def dead_letters(self, pool: str) -> AsyncIterator[AsyncIterator[HeldLetter]]:
        async def shown(letters: AsyncIterator[HeldLetter]) -> AsyncIterator[HeldLetter]:
            async for held in letters:
                self.shown += 1
                yield _Kept(held.letter) if self._keeps else held

        async with self._broker.dead_letters(pool) as letters:
            yield shown(letters)


@dataclass
class _Kept:
    letter: DeadLetter

    async def remove(self) -> None:
        raise Unavailable("BROKER_AWAY", "the broker is away")
