"""Those who use a broker: who publishes tasks, who works on them, and who looks after what was given up."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fault.simulation_queues.history import History, tried
from fault.simulation_queues.network import Host, here
from fault.simulation_queues.queues import EPOCH
from fault.simulation_queues.server import PATIENCE

from troupe.broker.addressing import SessionKey, task_queue
from troupe.broker.envelope import Undecodable, decode
from troupe.broker.port import Broker, DeadLetter, Delivery, HeldLetter
from troupe.broker.retry import RetryPolicy
from troupe.chassis.errors import TroupeError
from troupe.dataplane.dead_letters.filter import Filter
from troupe.dataplane.dead_letters.letters import DeadLetters
from troupe.v1.envelope_pb2 import Envelope

POOLS = ("cpu", "gpu")
POLICY = RetryPolicy()
DEADLINE = 8.0
"""Seconds after which who publishes asks anew."""
ALWAYS = 1_000


@dataclass(slots=True)
class Task:
    """What one task does to those who work on it."""

    envelope: Envelope
    pool: str
    seconds: float
    fails: int = 0
    """Attempts, of those after its last redrive."""
    hopeless: bool = False
    """Whether it ever failed always."""
    retry_after: float = 0.0
    kills: int = 0
    """Deliveries that still end with their worker."""
    hangs: int = 0
    """Deliveries that are still held for too long."""
    sent: bool = False


class Moment:
    """Stands in for the module `time`, and for a Clock: virtual, and as wrong as the clock of the host that asks."""

    @staticmethod
    def time() -> float:
        return EPOCH + Moment.monotonic() + here.get().clock

    now = time

    @staticmethod
    def time_ns() -> int:
        return int(Moment.time() * 1e9)

    @staticmethod
    def monotonic() -> float:
        return asyncio.get_running_loop().time()

    perf_counter = monotonic

    @staticmethod
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class Sender:
    """Publishes what stands in its book until that is confirmed. The book outlives its process."""

    def __init__(self, book: list[Task], history: History, dice: random.Random) -> None:
        self._book, self._history, self._dice = book, history, dice

    async def run(self, broker: Broker) -> None:
        while True:
            await asyncio.sleep(self._dice.uniform(0.0, 1.5))
            some = self._book[: self._dice.randint(1, 5)]
            if self._dice.random() < 0.3:
                pool = some[0].pool if some else ""
                await self._together(broker, [task for task in some if task.pool == pool], pool)
            else:
                async with asyncio.TaskGroup() as tasks:
                    for task in some:
                        tasks.create_task(self._alone(broker, task))

    async def _alone(self, broker: Broker, task: Task) -> None:
        self._begin(task)
        try:
            async with asyncio.timeout(DEADLINE):
                await broker.publish(task.envelope, task.pool)
        except (TroupeError, TimeoutError):
            return
        self._confirmed(task)

    async def _together(self, broker: Broker, some: list[Task], pool: str) -> None:
        for task in some:
            self._begin(task)
        try:
            async with asyncio.timeout(DEADLINE):
                outcomes = await broker.publish_many([task.envelope for task in some], pool)
        except TimeoutError:
            return
        for task, outcome in zip(some, outcomes, strict=True):
            if outcome is None:
                self._confirmed(task)

    def _begin(self, task: Task) -> None:
        if task.sent:
            self._history.excused.add(task.envelope.id)
        task.sent = True

    def _confirmed(self, task: Task) -> None:
        if task in self._book:
            self._history.accepts(task.envelope.id)
            self._book.remove(task)


class Worker:
    """Works on the tasks of all pools. It acks after the effect, and after the broker has a copy of what it puts off
    or gives up."""

    acks_first = False

    def __init__(
        self,
        tasks: dict[str, Task],
        history: History,
        dice: random.Random,
        prefetch: int,
        letter_id: Callable[[], str],
        kill: Callable[[Host], None],
    ) -> None:
        self._tasks, self._history, self._dice, self._prefetch = tasks, history, dice, prefetch
        self._letter_id, self._kill = letter_id, kill

    async def run(self, broker: Broker) -> None:
        async with asyncio.TaskGroup() as working:

            def take(delivery: Delivery) -> None:
                self._history.delivers(here.get().name, delivery)
                working.create_task(self._work(broker, delivery))

            for pool in POOLS:
                await broker.consume(task_queue(pool), take, self._prefetch)
            await asyncio.Event().wait()

    async def _work(self, broker: Broker, delivery: Delivery) -> None:
        try:
            envelope = decode(delivery.body)
        except Undecodable as error:
            await self._gives_up(broker, delivery, None, error.reason, str(error))
            return
        task = self._tasks[envelope.id]
        if task.hangs:
            task.hangs -= 1
            await asyncio.sleep(1.2 * PATIENCE)
        await asyncio.sleep(task.seconds * self._dice.random())
        if task.kills and envelope.attempt >= min(task.fails, 1):
            task.kills -= 1
            self._kill(here.get())
            await asyncio.Event().wait()
        if envelope.attempt >= task.fails:
            self._history.finishes(delivery)
            delivery.ack()
            return
        now = Moment.time()
        at = POLICY.retry_at(envelope.attempt + 1, now, self._dice.random(), float("inf"), task.retry_after)
        if at is None:
            await self._gives_up(broker, delivery, envelope, "OUT_OF_RETRIES", "it failed again")
        else:
            self._history.defers(delivery, at - now)
            await self._insist(lambda: broker.defer(delivery, at - now))

    async def _gives_up(
        self, broker: Broker, delivery: Delivery, envelope: Envelope | None, reason: str, error: str
    ) -> None:
        letter = DeadLetter(
            id=self._letter_id(),
            body=delivery.body,
            pool=delivery.queue.removeprefix(task_queue("")),
            message_id=envelope.id if envelope else "",
            session=SessionKey.of(envelope.target).path if envelope else "",
            reason=reason,
            error=error,
            attempts=envelope.attempt + 1 if envelope else 1,
            first_failed=Moment.time(),
            last_failed=Moment.time(),
            worker_id=here.get().name,
            revision_id="",
            trace_id="",
        )
        if self.acks_first:
            delivery.ack()
        await self._insist(lambda: broker.dead_letter(letter))
        if not self.acks_first:
            delivery.ack()

    async def _insist(self, work: Callable[[], Awaitable[None]]) -> None:
        """Whoever is told that the outcome is unknown does it again: the message may come twice then."""
        while True:
            try:
                return await work()
            except TroupeError:
                await asyncio.sleep(0.5)


class Keeper:
    """Redrives letters, and purges some."""

    def __init__(self, tasks: dict[str, Task], history: History, dice: random.Random) -> None:
        self._tasks, self._history, self._dice = tasks, history, dice

    async def run(self, broker: Broker) -> None:
        unused: Any = None  # no record is kept of unordered work, and none of its payloads is looked at
        letters = DeadLetters(broker, unused, Moment(), ready=_at_once, whole=unused)
        while True:
            await asyncio.sleep(self._dice.uniform(0.5, 6.0))
            pool = self._dice.choice(POOLS)
            try:
                async with asyncio.timeout(DEADLINE):
                    await self._looks(broker, letters, pool)
            except (TroupeError, TimeoutError):
                self._history.counts["looks in vain"] += 1

    async def _looks(self, broker: Broker, letters: DeadLetters, pool: str) -> None:
        found = await kept(broker, pool)
        chosen = [letter for letter in found if self._dice.random() < 0.4]
        if not chosen:
            return
        wanted = Filter("default", ids=frozenset(letter.id for letter in chosen))
        if self._dice.random() < 0.3:
            self._history.condemned.update(tried(letter.body).task for letter in chosen)
            async for _ in letters.purge(pool, wanted, limit=0, dry_run=False):
                self._history.counts["purged"] += 1
            return
        for letter in chosen:
            if (task := self._tasks.get(letter.message_id)) is not None:
                task.fails = self._dice.choice((0, 1, ALWAYS))
                task.hopeless |= task.fails == ALWAYS
                task.kills = 0
        again = set()
        try:
            async for response in letters.redrive(pool, wanted, limit=0, rate=0.0, dry_run=False):
                again.add(response.letter.letter_id)
                self._history.counts["redriven"] += 1
        finally:
            # What was cut off is sent once more, and what the server gave up goes as it was.
            for letter in chosen:
                if letter.id not in again or not letter.worker_id:
                    self._history.excuse(letter.body)


async def kept(broker: Broker, pool: str) -> list[DeadLetter]:
    """The pool's letters."""

    async def look(held: HeldLetter) -> DeadLetter:
        return held.letter

    async with broker.dead_letters(pool) as letters:
        return [await look(held) async for held in letters]


async def _at_once() -> None:
    """There is always something to publish to."""
