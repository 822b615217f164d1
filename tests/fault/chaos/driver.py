"""Senders: each sends numbered operations to sessions, again under the same id until they are accepted, does to them
what their kind asks for, and keeps what it was told."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import grpc
from fault.chaos.client import Client, calling
from fault.chaos.history import Letter, Place, Sent, Settlement, Verbs
from fault.chaos.operations import (
    READ,
    UNORDERED,
    Kind,
    Operation,
    State,
    drawn,
    drawn_kind,
    from_reminder,
    from_session,
)

from troupe.v1 import agent_pb2
from troupe.v1.dead_letter_pb2 import DeadLetterFilter, GetDeadLetterRequest, ListDeadLettersRequest, RedriveRequest

LONGEST: Final = 90.0
"""Seconds within which all comes to its end once nothing befalls the fleet any more; what has not is lost."""
QUIET: Final = 20.0
"""Seconds for which nothing more comes to a session after which what is on its way to it is lost."""
SHORT: Final = 3.0
"""Seconds that each further one has, once one had none: there may be many, and what one hides is not to be lost too."""
AT_ONCE: Final = 50
"""Clients that ask for ends when all is over."""
INNOCENT: Final = "WORKER_KILLED"
"""The reason of a message that was under way at too many kills: it is sent again when the storm is over."""

Lane = tuple[str, str]
"""A sender and a session."""


class Driver:
    """Make one with `driving`. A sender sends up to three operations to a session, one behind the other's confirm, and
    goes on there when all have come to their end. What one gateway takes comes in order; what another one takes has no
    order beside that, so a sender that turns to another waits for the end of what it sent before."""

    def __init__(self, client: Client, dice: random.Random, *, sessions: int, senders: int, rate: float) -> None:
        self.client, self._dice = client, dice
        # One in ten takes its messages in batches.
        self.sessions = [f"{'b' if number % 10 == 0 else 's'}{number}" for number in range(sessions)]
        self._senders = [f"c{number}" for number in range(senders)]
        self._rate = rate
        self._numbers: Counter[tuple[str, str]] = Counter()
        self._gateway: dict[Lane, str] = {}
        self._busy: set[Lane] = set()
        self.sent: dict[str, Sent] = {}
        """By message id."""
        self.settled: Counter[str] = Counter()
        """Operations that came to their end, by session."""

    async def drive(self, over: asyncio.Event) -> None:
        """Send until it is `over`, to all sessions in turn, and return when all that was sent has come to its end."""
        async with asyncio.TaskGroup() as tasks:
            while not over.is_set():
                for session in self._dice.sample(self.sessions, len(self.sessions)):
                    free = [lane for sender in self._senders if (lane := (sender, session)) not in self._busy]
                    if free:
                        lane = self._dice.choice(free)
                        self._busy.add(lane)
                        tasks.create_task(self._burst(lane))
                    await asyncio.sleep(1.5 / self._rate)
                    if over.is_set():
                        break

    def behind(self, before: Counter[str]) -> list[str]:
        """Sessions of which nothing has been settled since `settled` was `before`."""
        return [session for session in self.sessions if self.settled[session] <= before[session]]

    async def _burst(self, lane: Lane) -> None:
        under_way: list[asyncio.Task[None]] = []
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._dice.choice((1, 1, 2, 3))):
                one = self._next(*lane)
                await self._accept(lane, one, under_way)
                under_way.append(tasks.create_task(self._see_through(one)))
                if len(one.tries) > 1:
                    break
        self._busy.discard(lane)

    def _next(self, sender: str, session: str) -> Sent:
        kind = drawn_kind(self._dice, session)
        sender += UNORDERED if kind is Kind.LATER else ""
        self._numbers[sender, session] += 1
        operation = drawn(self._dice, kind, sender, self._numbers[sender, session], self.sessions)
        one = Sent(f"{sender}.{session}.{operation.number}".replace(" ", "-"), session, operation, at=time.time())
        self.sent[one.message_id] = one
        return one

    async def _accept(self, lane: Lane, one: Sent, under_way: Sequence[asyncio.Task[None]]) -> None:
        """Send it until it is accepted; its end too, where the call brings that. No other gateway gets it before what
        is under way has ended."""
        while not one.accepted:
            gateway = self._gateway.setdefault(lane, self.client.any())
            one.tries.append(gateway)
            try:
                if (answer := await self.client.offer(gateway, one)) is not None:
                    one.answers.append(answer)
                one.accepted = True
            except grpc.aio.AioRpcError as error:
                del self._gateway[lane]
                await self.client.failed(error)
                if under_way:
                    await self._wait_for(under_way, one)

    async def _wait_for(self, under_way: Sequence[asyncio.Task[None]], one: Sent) -> None:
        """Until it has ended. The message may have been accepted, and wait for its promise before all that."""
        asked = asyncio.create_task(self._settle(one)) if one.operation.kind is Kind.ASK else None
        try:
            await asyncio.wait(under_way)
        finally:
            if asked is not None:
                asked.cancel()
                await asyncio.wait([asked])

    async def _see_through(self, one: Sent) -> None:
        """Do to it what its kind asks for, and wait for its end."""
        async with asyncio.TaskGroup() as tasks:
            beside = tasks.create_task(self._beside(one))
            if not one.answers:
                one.answers.append(await self.client.end(one.session, one.message_id))
            one.took = time.time() - one.at
            self.settled[one.session] += 1
            if one.operation.kind is Kind.ASK:  # there may be no promise any more
                beside.cancel()

    async def _beside(self, one: Sent) -> None:
        match one.operation.kind:
            case Kind.ASK:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._settle(one))
                    tasks.create_task(self._settle(one))
            case Kind.PAUSE:
                await self._pause(one)
            case Kind.CANCEL:
                await asyncio.sleep(self._dice.choice((0.0, 0.1, 0.3)))
                answer = await self.client.control(agent_pb2.VERB_CANCEL, one.session, one.message_id)
                one.verbs = Verbs(answer, since=time.time())
            case _:
                pass

    async def _settle(self, one: Sent) -> None:
        given = Settlement(self._dice.randrange(1_000_000))
        one.settlements.append(given)
        answer = await self.client.resolve(one.session, one.message_id, given.value)
        one.settlements[one.settlements.index(given)] = Settlement(given.value, answer)

    async def _pause(self, one: Sent) -> None:
        await asyncio.sleep(self._dice.choice((0.0, 0.1, 0.3)))
        answer = await self.client.control(agent_pb2.VERB_PAUSE, one.session, one.message_id)
        one.verbs = verbs = Verbs(answer, since=time.time())
        if verbs.binds:
            await asyncio.sleep(self._dice.uniform(0.2, 2.0))
            verbs.fate = await self.client.fate(one.session, one.message_id)
        verbs.until = time.time()
        verbs.resume = await self.client.control(agent_pb2.VERB_RESUME, one.session, one.message_id)

    async def conclude(self) -> tuple[dict[str, State], list[Letter], frozenset[Place]]:
        """Once nothing befalls the fleet any more, and it had time to come to rest: what each session has in the end,
        all dead letters, and what was redriven. What has not come to its end has none."""
        letters: dict[str, Letter] = {}
        redriven: set[Place] = set()
        quiet_since, before = time.monotonic(), -1
        while True:
            innocent = await self._list(letters)
            if innocent:
                await self._redrive(innocent, redriven)
            states = dict(zip(self.sessions, await asyncio.gather(*map(self._read, self.sessions)), strict=True))
            came, wanted = _on_their_way(states, self.sent)
            if innocent or came != before:
                quiet_since, before = time.monotonic(), came
            if (came >= wanted and not innocent) or time.monotonic() - quiet_since > QUIET:
                break
            await asyncio.sleep(0.5)
        asked = list(self.sent.values())
        await asyncio.gather(*(self._ended(asked[first::AT_ONCE]) for first in range(AT_ONCE)))
        return states, list(letters.values()), frozenset(redriven)

    async def _read(self, session: str) -> State:
        """What it has; nothing, where it does not answer any more."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LONGEST):
                return await self.client.read(session)
        return State()

    async def _ended(self, some: Sequence[Sent]) -> None:
        within = QUIET
        for one in some:
            try:
                async with asyncio.timeout(within):
                    one.end = await self.client.end(one.session, one.message_id)
            except TimeoutError:
                within = SHORT

    async def _list(self, letters: dict[str, Letter]) -> list[str]:
        """Note all that stand in the pool; the ids of those that are to be redriven."""
        stub, innocent, token = self.client.stubs[self.client.gateways[0]].letters, [], ""
        while True:
            page = await stub.ListDeadLetters(ListDeadLettersRequest(page_size=1000, page_token=token), timeout=30)
            for letter in page.letters:
                letters[letter.letter_id] = Letter(letter.session.session, letter.message_id, letter.death.reason)
                if letter.death.reason == INNOCENT:
                    innocent.append(letter.letter_id)
            if not (token := page.next_page_token):
                return innocent

    async def _redrive(self, letter_ids: list[str], redriven: set[Place]) -> None:
        """Send them again; what asks for a promise gets it."""
        stub = self.client.stubs[self.client.gateways[0]].letters
        asking = []
        for letter_id in letter_ids:
            letter = await stub.GetDeadLetter(GetDeadLetterRequest(letter_id=letter_id), timeout=30)
            if letter.content.text != READ:
                operation = Operation.read(letter.content.text)
                redriven.add((letter.letter.session.session, operation.sender, operation.number))
                if operation.kind is Kind.ASK:
                    asking.append(self.sent[letter.letter.message_id])
        asked = RedriveRequest(filter=DeadLetterFilter(letter_ids=letter_ids))
        async for _ in stub.Redrive(asked, timeout=60):
            pass
        for one in asking:
            with suppress(TimeoutError):
                async with asyncio.timeout(QUIET):
                    await self._settle(one)


def _on_their_way(states: dict[str, State], sent: dict[str, Sent]) -> tuple[int, int]:
    """How much came from sessions and reminders, and how much is to come."""
    reminders = {
        from_reminder(one.message_id)
        for one in sent.values()
        if one.operation.kind is Kind.REMIND
        and any(
            (each.sender, each.number) == (one.operation.sender, one.operation.number)
            for each in states[one.session].applied
        )
    }
    came = sum(each.sender.startswith(from_session("")) for state in states.values() for each in state.applied)
    reminded = {each.sender for state in states.values() for each in state.applied} & reminders
    return came + len(reminded), sum(sum(state.sent.values()) for state in states.values()) + len(reminders)


@asynccontextmanager
async def driving(
    gateways: Sequence[str], dice: random.Random, *, sessions: int, senders: int, rate: float
) -> AsyncIterator[Driver]:
    """Senders to the gateways at these addresses, which may come and go; about `rate` operations a second."""
    async with calling(gateways, dice) as client:
        yield Driver(client, dice, sessions=sessions, senders=senders, rate=rate)
