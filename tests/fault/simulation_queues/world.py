"""One seed: hosts with their processes, the server, what befalls them, and the calm after it."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from unittest import mock

from fault.simulation_queues.history import History
from fault.simulation_queues.network import IN, OUT, Host, Network, Weather, here
from fault.simulation_queues.people import ALWAYS, POOLS, Keeper, Sender, Task, Worker, kept
from fault.simulation_queues.server import Server
from support.mailboxes import message

from troupe.broker.addressing import task_queue
from troupe.broker.port import Broker
from troupe.broker.rabbitmq import lane
from troupe.broker.rabbitmq.broker import NOTICE, RabbitmqBroker
from troupe.chassis.errors import TroupeError

LIMIT = 4
"""Deliveries that come to nothing before the server gives a message up, in place of a thousand."""
CALM = 160.0
"""Seconds within which everything has come to its end once nothing new happens."""
RECOVERY = 25.0
"""Seconds after a fault in which it still tells: both ends notice that a connection is dead."""

WELL = Weather()
Role = Callable[[Broker], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Climate:
    """What kind of trouble a seed is about."""

    kinds: tuple[str, ...] = ()
    """Of faults, as often as they are named."""
    faults: int = 0
    failing: float = 0.3
    """Share of tasks that fail at first."""
    killing: float = 0.0
    hanging: float = 0.0
    foreign: int = 0
    """Bodies in the pools that are no envelopes."""
    weather: Weather = WELL


EVERYTHING = (
    *("kill", "leave", "cut in", "cut out", "stop", "vanish", "crash", "crash", "clock"),
    *("delete", "forget consumers"),
)


def anything(dice: random.Random) -> Climate:
    return Climate(
        tuple(dice.sample(EVERYTHING, dice.randint(1, 4))),
        faults=dice.choice((2, 5, 10)),
        failing=dice.choice((0.2, 0.6)),
        killing=dice.choice((0.0, 0.05)),
        hanging=dice.choice((0.0, 0.0, 0.05)),
        foreign=dice.choice((0, 0, 2)),
        weather=dice.choice((WELL, Weather(0.01, 0.5), Weather(0.05, 2.0))),
    )


def quiet(dice: random.Random) -> Climate:
    """Tasks fail, and nothing else goes wrong: then nothing comes twice, and all comes in time."""
    return Climate(failing=dice.choice((0.5, 1.0)), foreign=dice.choice((0, 1)))


def connections(dice: random.Random) -> Climate:
    """Ways are cut in one direction or both, and slow."""
    return Climate(
        ("cut in", "cut out", "stop", "vanish", "kill"),
        faults=dice.choice((5, 12)),
        failing=0.5,
        weather=dice.choice((WELL, Weather(0.05, 2.0, 0.2))),
    )


def crashes(dice: random.Random) -> Climate:
    """The server dies again and again."""
    return Climate(("crash",), faults=dice.choice((4, 10)), failing=0.7)


def deletions(dice: random.Random) -> Climate:
    """Queues are deleted while messages are on their way to them."""
    return Climate(
        ("delete", "delete", dice.choice(("crash", "kill", "clock"))), faults=dice.choice((6, 15)), failing=1.0
    )


def clocks(dice: random.Random) -> Climate:
    """Clocks of hosts are wrong, and delays are long; nothing else happens."""
    return Climate(("clock",), faults=dice.choice((2, 6)), failing=0.8)


def forgetful(dice: random.Random) -> Climate:
    """The server forgets consumers, and tells nobody."""
    return Climate(("forget consumers",), faults=dice.choice((3, 8)), failing=0.8)


def letters(dice: random.Random) -> Climate:
    """Much is given up, and sent again."""
    return Climate(
        tuple(dice.sample(("kill", "crash", "cut out", "leave"), 2)),
        faults=dice.choice((0, 4)),
        failing=1.0,
        killing=dice.choice((0.0, 0.1)),
        foreign=2,
    )


CLIMATES = (anything, forgetful, quiet, connections, crashes, deletions, clocks, letters)


class World:
    """`run` it inside a virtual loop."""

    def __init__(self, seed: int, history: History) -> None:
        self.dice, self.history = random.Random(seed), history
        self.climate = CLIMATES[seed % len(CLIMATES)](self.dice)
        self.server = Server(self.dice, history)
        self.network = Network(self.server, self.dice, self.climate.weather, history)
        history.longest_way = self.climate.weather.longest
        self._ids = itertools.count(1)
        self._roles: dict[Host, Role] = {}
        self._up: dict[Host, asyncio.Task[None]] = {}
        """The processes that run."""
        self.tasks: dict[str, Task] = {}
        self._books: list[list[Task]] = []

    async def run(self) -> None:
        with mock.patch.object(lane, "Link", self.network.link()):
            await self._runs()

    async def _runs(self) -> None:
        self._people()
        for host in self._roles:
            self._starts(host)
        for _ in range(self.climate.foreign):
            await asyncio.sleep(2.0)
            self._foreign()
        for _ in range(self.climate.faults):
            await asyncio.sleep(self.dice.choice((0.3, 2.0, 6.0)) * self.dice.random())
            self._befalls()
        await self._calms()
        await self._ends()

    def _people(self) -> None:
        for sender in range(self.dice.choice((1, 2))):
            book = [self._task(f"s{sender}", number) for number in range(1, self.dice.randint(5, 25))]
            self._books.append(book)
            self._roles[Host(f"sender-{sender}")] = Sender(book, self.history, self.dice).run
        for worker in range(self.dice.choice((1, 2, 3))):
            prefetch = self.dice.choice((1, 3, 32))
            working = Worker(self.tasks, self.history, self.dice, prefetch, self._letter_id, self.kills)
            self._roles[Host(f"worker-{worker}")] = working.run
        self._keeper = Host("keeper")
        self._roles[self._keeper] = Keeper(self.tasks, self.history, self.dice).run

    def _task(self, stream: str, number: int) -> Task:
        dice, climate = self.dice, self.climate
        task = Task(message(number, stream=stream), dice.choice(POOLS), dice.choice((0.0, 0.05, 1.0, 4.0)))
        if dice.random() < climate.failing:
            task.fails = dice.choice((1, 2, 3, ALWAYS))
            task.hopeless = task.fails == ALWAYS
            task.retry_after = dice.choice((0.0, 0.0, 0.0, 2.5, 9.0))
        if dice.random() < climate.killing:
            task.kills = dice.choice((1, 3, ALWAYS))
        if dice.random() < climate.hanging:
            task.hangs = 1
        self.tasks[task.envelope.id] = task
        self.history.pools[task.envelope.id] = task.pool
        return task

    def _letter_id(self) -> str:
        return f"01900000-0000-7000-9000-{next(self._ids):012}"

    # Processes

    def _starts(self, host: Host) -> None:
        host.enter()
        loop = asyncio.get_running_loop()
        self._up[host] = loop.create_task(self._lives(self._roles[host]), context=host.process.context)

    async def _lives(self, role: Role) -> None:
        while True:
            try:
                async with RabbitmqBroker.opened("amqp://guest:guest@server") as broker:
                    await broker.declare(1, POOLS)
                    await role(broker)
            except* TroupeError as errors:
                self.history.log(f"{here.get().name} begins anew: {errors.exceptions}")
            except* Exception as errors:
                self.history.violation("crash", f"{here.get().name}: {errors.exceptions!r}")
            await asyncio.sleep(1.0)

    def kills(self, host: Host) -> None:
        """kill -9; it is started again after a while."""
        if self._up.pop(host, None) is not None:
            self.history.log(f"{host.name} is killed")
            self.history.counts["kills"] += 1
            for end in list(host.ends):
                end.die()
            host.process.cancel()
            self._again(host)

    def _leaves(self, host: Host) -> None:
        """It ends in good order."""
        if (main := self._up.pop(host, None)) is not None:
            main.cancel()
            self._again(host)

    def _again(self, host: Host) -> None:
        seconds = self.dice.choice((0.1, 3.0))
        self.history.trouble(seconds + RECOVERY)
        asyncio.get_running_loop().call_later(seconds, self._starts, host)

    # What befalls

    def _befalls(self) -> None:
        kind = self.dice.choice(self.climate.kinds)
        self.history.log(f"--- {kind}")
        self.history.counts[kind] += 1
        host = self.dice.choice(list(self._roles))
        seconds = self.dice.choice((0.5, 5.0, 40.0)) * self.dice.random()
        match kind:
            case "kill":
                self.kills(host)
            case "leave":
                self._leaves(host)
            case "cut in":
                self._cut(host, seconds, IN)
            case "cut out":
                self._cut(host, seconds, OUT)
            case "stop":
                self._cut(host, seconds, IN, OUT)
            case "vanish":
                host.vanish()
                self.history.trouble(RECOVERY)
            case "crash" if self.dice.random() < 0.5:
                self._crashes()
            case "crash":
                self.server.log.after(self.dice.randint(1, 40), self._crashes)
            case "clock":
                host.clock = self.dice.choice((-60.0, -5.0, 0.0, 5.0, 60.0))
            case "delete":
                self._deletes(looks=250)
            case "forget consumers":
                self.history.trouble(RECOVERY)
                if served := [queue for queue in self.server.queues.values() if queue.consumers]:
                    self.dice.choice(served).consumers.clear()

    def _cut(self, host: Host, seconds: float, *directions: str) -> None:
        host.cut.update(directions)
        self.history.trouble(seconds + RECOVERY)
        asyncio.get_running_loop().call_later(seconds, host.heal)

    def _crashes(self) -> None:
        if self.server.up:
            self.server.crash()
            self.history.trouble(RECOVERY)
            asyncio.get_running_loop().call_later(self.dice.choice((0.5, 2.0, 8.0)), self.server.start)

    def _deletes(self, looks: int) -> None:
        """An empty queue goes: mostly one that a delay is about to end for."""
        soon, queues = asyncio.get_running_loop().time() + 0.05, self.server.queues
        ending = [queue.ready[0] for name, queue in queues.items() if ".delay." in name and queue.ready]
        wanted = [message.key for message in ending if message.expires < soon]
        if not looks or self.dice.random() < 0.002:
            wanted = list(queues)
        wanted = [name for name in wanted if name in queues and queues[name].empty]
        if wanted and self.server.up and self.server.log.empty:
            self.history.trouble(RECOVERY)
            self.server.delete(self.dice.choice(wanted))
            self.history.mending = 2 * NOTICE
        elif looks:
            asyncio.get_running_loop().call_later(0.02, self._deletes, looks - 1)

    def _foreign(self) -> None:
        pool = self.dice.choice(POOLS)
        if task_queue(pool) in self.server.queues and self.server.up:
            body = f"no envelope {next(self._ids)}".encode()
            self.history.pools[repr(body)] = pool
            self.server.inject(task_queue(pool), body)

    # The end

    async def _calms(self) -> None:
        """Nothing new happens, and everything comes to its end."""
        self.history.log("--- calm")
        self.network.weather = WELL
        loop = asyncio.get_running_loop()
        await asyncio.sleep(45.0)
        self._keeper.process.cancel()
        until = loop.time() + CALM
        while loop.time() < until and (any(self._books) or not self._settled()):
            await asyncio.sleep(1.0)
        for task in itertools.chain(*self._books):
            self.history.violation("left", f"{task.envelope.id} was never confirmed")
        for name, queue in self.server.queues.items():
            if not queue.empty and ".dlq." not in name:
                self.history.violation("left", f"{name} holds {len(queue.ready)} and {len(queue.held)} unacked")
        self.history.counts["slowest end"] = int(loop.time())

    def _settled(self) -> bool:
        return all(queue.empty for name, queue in self.server.queues.items() if ".dlq." not in name)

    async def _ends(self) -> None:
        for host in self._roles:
            host.process.cancel()
        await asyncio.sleep(20.0)
        reader = Host("reader")
        reader.enter()
        found: list[object] = []
        work = asyncio.get_running_loop().create_task(self._reads(), context=reader.process.context)
        try:
            async with asyncio.timeout(60.0):
                found = await work
        except (TroupeError, TimeoutError) as error:
            self.history.violation("left", f"letters cannot be read: {error!r}")
        self.history.ends(found, self._reasons, LIMIT)  # type: ignore[arg-type]
        await asyncio.sleep(20.0)

    async def _reads(self) -> list[object]:
        async with RabbitmqBroker.opened("amqp://guest:guest@server") as broker:
            await broker.declare(1, POOLS)
            return [letter for pool in POOLS for letter in await kept(broker, pool)]

    def _reasons(self, task: str) -> set[str]:
        if task not in self.tasks:
            return {"UNDECODABLE"}
        return {"OUT_OF_RETRIES"} if self.tasks[task].hopeless else set()
