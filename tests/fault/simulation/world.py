"""One seed's world: workers, shards, clients, and the faults that befall them."""

import asyncio
import contextlib
import contextvars
import functools
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any
from unittest import mock

from fault.simulation.checker import check
from fault.simulation.client import Clients
from fault.simulation.climate import Climate
from fault.simulation.control import ControlPlane
from fault.simulation.history import History
from fault.simulation.redriver import Redriver
from fault.simulation.script import Scripts
from fault.simulation.server import Server
from fault.simulation.store import WatchedStore
from fault.simulation.worker import BATCHES, LATE_AGENT, SHARDS, LoopClock, Worker

from troupe.broker.addressing import SessionKey
from troupe.broker.memory import MemoryBroker
from troupe.dataplane import messages, sending
from troupe.dataplane.actors import host, outbox, outcome
from troupe.dataplane.state import memory


@contextlib.contextmanager
def days_of(seconds: float) -> Iterator[None]:
    """What is kept for a day is kept for so long; what is due an hour before the day is over is due at 95 % of it."""
    most = seconds * 23 / 24 if seconds > 3600 else seconds * 0.95
    with (
        mock.patch.object(memory, "RECORD_KEPT", seconds),
        mock.patch.object(messages, "EXPIRES", seconds),
        mock.patch.object(outcome, "STALE_AFTER", most),
        mock.patch.object(outbox, "FORGET_STREAM", most),
        mock.patch.object(sending, "FORGET_STREAM", most),
        mock.patch.object(host, "FORGET", min(600.0, seconds / 20)),
    ):
        yield


DRAIN = 1800.0
"""Seconds after the last fault within which everything must have come to its end."""
TIDY = 60.0
"""Seconds within which idle sessions leave memory."""


class World:
    """See the module's text. Must be made inside the loop that it runs in."""

    def __init__(self, seed: int, history: History, climates: Sequence[Callable[[random.Random], Climate]]) -> None:
        self.dice, self.history = random.Random(seed), history
        self._climate = self.dice.choice(climates)(self.dice)
        self.faults = self._climate.faults
        self.scripts = Scripts(seed, self._climate.long, self._climate.waits)
        self.scripts.asked, self.scripts.restarted = self._asked, history.restarted
        self.faulty = True
        self.server = Server(MemoryBroker(clock=LoopClock()), self.dice)
        self.store = WatchedStore(history, self.server, LoopClock())
        history.store_now = LoopClock().now
        self._promised: set[tuple[SessionKey, str]] = set()
        self.workers: list[Worker] = []
        self.gone: list[Worker] = []
        self._instances = 0
        self.control = ControlPlane(self.dice, history, lambda: self.workers, self.gone)
        self.redriver = Redriver(self.server, self.store, self.dice, history)
        self._clients = Clients(self._reachable, history, self.dice, lambda: self.faulty)
        self.sent: set[tuple[SessionKey, str]] = set()
        self.refusing: set[tuple[SessionKey, str]] = set()
        """Messages that were sent, by some of their copies, not to wait."""

    async def run(self) -> None:
        """The whole run, checks included."""
        with days_of(self._climate.day):
            await self._run()
        check(self)

    async def _run(self) -> None:
        await self.server.broker.declare(SHARDS)
        await self.store.declare(SHARDS)
        async with asyncio.TaskGroup() as self._tasks:
            self.workers = [self._start() for _ in range(self.dice.choice((2, 2, 3)))]
            for worker in self.workers:
                await worker.up.wait()
            for shard in range(SHARDS):
                self.control.give(shard, self.dice.choice(self.workers))
            self.control.tell()
            telling = asyncio.create_task(self.control.keep_telling())
            await self._through_faults()
            await self._recover()
            await self._drain()
            await self.redriver.redrive(everything=True)
            await self._drain()
            telling.cancel()
            await self._end()

    async def _through_faults(self) -> None:
        dice, length = self.dice, self.dice.choice((15.0, 45.0))
        sessions = self._sessions = [
            SessionKey("default", "default", agent, f"s{number}")
            for number, agent in enumerate(
                dice.choice(
                    (("clerk",), ("clerk", "clerk", LATE_AGENT), ("clerk",) * 5, (BATCHES,), ("clerk", BATCHES))
                )
            )
        ]
        ids = [f"m{number}" for number in range(dice.choice((4, 10, 25)))]
        for message_id in ids:
            key, at = dice.choice(sessions), dice.uniform(0.0, length * dice.choice((0.1, 1.0)))
            options: dict[str, float | bool] = {}
            if dice.random() < 0.1:
                options["expires"] = dice.uniform(0.5, 5.0)
            if dice.random() < self._climate.later:
                later = dice.choice((0.5, 5.0, 40.0, 1.6 * min(self._climate.day, 300.0)))
                options["due"] = self.history.due[key, message_id] = LoopClock().now() + at + later
            if dice.random() < 0.1:
                options["rejected"] = True
                self.refusing.add((key, message_id))
            for copy in range(dice.choice((1, 1, 1, 2))):
                payload = "other" if copy and dice.random() < 0.5 else "payload"
                send = functools.partial(self._clients.send, key, message_id, payload, **options)
                self._at(at + copy * dice.uniform(0.0, 3.0), send)
            self.sent.add((key, message_id))
            for verb in (self._clients.cancel, self._clients.pause):
                if dice.random() < self._climate.verbs:
                    self._at(at + dice.choice((-0.5, 0.01, 0.1, 1.0, 10.0)), verb, key, message_id)
            if dice.random() < 0.1:
                self._at(at + dice.uniform(0.0, 10.0), self._clients.ask, key, message_id)
            if self._climate.restarts and dice.random() < self._climate.restarts:
                self._at(at + dice.choice((0.01, 0.1, 1.0, 5.0, 20.0)), self._clients.restart, key, message_id)
        if dice.random() < 0.15:
            for _ in range(dice.choice((1, 3))):
                self._at(dice.uniform(0.0, length), self._clients.delete, dice.choice(sessions))
        faults = {
            "kill": self._kill,
            "storm": self._storm,
            "restart": self._restart,
            "move": self._move,
            "move silently": self._move_silently,
            "cut store": self._cut_store,
            "cut broker": self._cut_broker,
            "reconnect": self._reconnect,
            "hand over": self._hand_over,
            "redrive": self.redriver.redrive,
            "broker restart": self._restart_broker,
            "two leaders": self._two_leaders,
            "clock jumps": self._clock_jumps,
            "restore": self._restore,
        }
        for _ in range(self._climate.faults):
            self._at(dice.uniform(0.2, length), faults[dice.choice(self._climate.kinds)])
        self._at(dice.uniform(5.0, 60.0), self._second_revision)
        self.scripts.others = sessions
        await asyncio.sleep(length)

    async def _recover(self) -> None:
        """From here on everything works: the control plane sees to owners, and clients that sent end."""
        self.history.log("FAULTS END")
        self.faulty, self.scripts.calm = False, True
        self.control.sound = self.redriver.sound = True
        for worker in [*self.workers, *self.gone]:
            worker.heal()
        self.control.tell()
        await asyncio.sleep(5.0)
        self.control.reown()
        if self.history.counts["restored"]:
            self._see_to_what_came_back()

    def _see_to_what_came_back(self) -> None:
        """With the backup came promises that had been settled, and messages that had been resumed."""
        for key in self.store.sessions():
            for promise in self.store._open(key):
                self._promised.discard((key, promise.id))
                self._asked(key, promise.id)
            for message_id in self.store._find(key).all_bound().paused:
                self._at(0.0, self._clients.resume, key, message_id)

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + DRAIN
        while loop.time() < until and not (self.server.empty and not self.store.left() and self._quiet()):
            await asyncio.sleep(5.0)
        self.history.counts["slowest drain"] = max(0, round(loop.time() - until + DRAIN))
        await asyncio.sleep(TIDY)

    def _quiet(self) -> bool:
        return not any(worker.host.running for worker in self.workers) and not self._tasks._tasks

    async def _end(self) -> None:
        for worker in self.workers:
            if worker.host.hot or worker.hub._logs:
                hot = [str(actor.key) for actor in worker.host._hot]
                self.history.violation("left in memory", f"{worker.instance}: {hot} {list(worker.hub._logs)}")
        for worker in self.workers:
            await worker.stop()
        await asyncio.sleep(1.0)
        for worker in [*self.workers, *self.gone]:
            for task in list(worker.process.tasks.values()):
                self.history.violation("task left", f"{worker.instance}: {task}")
                task.cancel()
        for client in list(self._tasks._tasks):
            self.history.violation("client left", str(client))
            client.cancel()

    # The control plane.

    def _start(self) -> Worker:
        self._instances += 1
        return Worker(
            f"w{self._instances}",
            self.store,
            self.server,
            self.scripts,
            self.history,
            self.dice,
            self._climate.weather,
            self._climate.prefetch,
            self._killed,
            self._nudge,
        )

    def _reachable(self) -> list[Worker]:
        return [worker for worker in self.workers if not worker.dead and worker.up.is_set()]

    # Faults.

    def _killed(self, worker: Worker) -> None:
        self._tasks.create_task(self._replace(worker, self._kill_of(worker)), context=contextvars.Context())

    async def _replace(self, worker: Worker, end: Callable[[], Awaitable[None]]) -> None:
        """End a worker; another instance comes, and the control plane finds owners for the shards."""
        if worker.dead:
            return
        fresh = self._start()
        self.workers[self.workers.index(worker)] = fresh
        self.gone.append(worker)
        if not self.faulty:
            fresh.heal()
        fresh.second_revision = worker.second_revision
        await end()
        await asyncio.sleep(self.dice.choice((0.01, 1.0, 5.0)))
        self.control.reown()

    async def _kill(self) -> None:
        worker = self.dice.choice(self.workers)
        await self._replace(worker, self._kill_of(worker))

    def _kill_of(self, worker: Worker) -> Callable[[], Awaitable[None]]:
        return lambda: worker.kill(self.dice.choice((0.0, 0.0, 1.0, 10.0)))

    async def _storm(self) -> None:
        """Half of what a worker publishes is not carried. Then it dies, and numbers that it gave out never come; or the
        receiver's deliveries stop, and they come late."""
        worker, seconds = self.dice.choice(self.workers), self.dice.choice((0.02, 0.2))
        if worker.dead or not worker.up.is_set():
            return
        worker.to_broker.cut(seconds, share=0.5)
        key = self.dice.choice(self._sessions)
        for _ in range(6):
            message_id = f"s{len(self.sent)}"
            self.sent.add((key, message_id))
            self._at(self.dice.uniform(0.0, seconds), self._clients.send_once, key, message_id, "payload", worker)
        await asyncio.sleep(seconds)
        if self.dice.random() < 0.5:
            await self._replace(worker, self._kill_of(worker))
        else:
            self.control.owners[key.shard(SHARDS)][0].to_broker.cut(45.0)

    async def _hand_over(self) -> None:
        await self.control.hand_over(self.dice.randrange(SHARDS))

    async def _reconnect(self) -> None:
        await self.dice.choice(self.workers).reconnect(self.dice.choice((0.0, 0.1, 3.0)))

    async def _restart_broker(self) -> None:
        """All connections break; what was unacked is ready again."""
        away = self.dice.choice((0.1, 3.0, 20.0))
        async with asyncio.TaskGroup() as tasks:
            for worker in self.workers:
                worker.to_broker.cut(away)
                tasks.create_task(worker.reconnect(away))

    async def _two_leaders(self) -> None:
        """One that was replaced and does not know it places a shard under an epoch that another has given out."""
        shard = self.dice.randrange(SHARDS)
        owner, epoch = self.control.owners[shard]
        others = [worker for worker in self.workers if worker is not owner]
        if others:
            self.control.contradict(self.dice.choice(others), shard, epoch)
            await asyncio.sleep(self.dice.choice((0.5, 5.0)))
            self.control.give(shard, self.dice.choice(self.workers))
            self.control.tell()

    async def _restore(self) -> None:
        """The store is lost, and comes back as it was some seconds ago."""
        restore = self.store.backup()
        await asyncio.sleep(self.dice.choice((0.5, 5.0)))
        restore()
        self._promised.clear()

    async def _clock_jumps(self) -> None:
        self.dice.choice(self.workers).clock.skew = self.dice.choice((-60.0, -5.0, 0.0, 5.0, 60.0))

    def _nudge(self, key: SessionKey) -> None:
        """Tell the workers that something was recorded for the session; now and then one does not hear of it."""
        for worker in self.workers:
            if self.dice.random() < 0.8:
                worker.nudged(key)

    def _asked(self, key: SessionKey, promise_id: str) -> None:
        """Somebody hears of a promise, once, and settles it sooner or later."""
        if (key, promise_id) not in self._promised:
            self._promised.add((key, promise_id))
            wait = self.dice.choice((0.0, 0.002, 0.5, 3.0, 29.999)) if self.faulty else 0.5
            self._tasks.create_task(
                self._later(wait, self._clients.settle, key, promise_id), context=contextvars.Context()
            )

    async def _restart(self) -> None:
        worker = self.dice.choice(self.workers)
        await self._replace(worker, worker.stop)

    async def _move(self) -> None:
        """Abruptly; the one before learns of it at once."""
        shard = self.dice.randrange(SHARDS)
        self.control.give(shard, self.dice.choice(self.workers))
        self.control.tell()

    async def _move_silently(self) -> None:
        """The one before goes on, for a while or until the fence stops it."""
        shard = self.dice.randrange(SHARDS)
        before = self.control.owners[shard][0]
        others = [worker for worker in self.workers if worker is not before]
        after = self.dice.choice(others)
        self.control.give(shard, after)
        if self.dice.random() < 0.5:
            await before.break_channel(shard)
        self.control.tell(after)
        await asyncio.sleep(self.dice.choice((0.5, 5.0, 60.0)))
        self.control.tell()

    async def _cut_store(self) -> None:
        self.dice.choice(self.workers).to_store.cut(self.dice.choice((0.5, 5.0, 20.0)))

    async def _cut_broker(self) -> None:
        self.dice.choice(self.workers).to_broker.cut(self.dice.choice((0.5, 5.0, 20.0, 45.0)))

    async def _second_revision(self) -> None:
        for worker in self.workers:
            worker.learn()

    def _at(self, seconds: float, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        self._tasks.create_task(self._later(seconds, work, *arguments))

    async def _later(self, seconds: float, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        await asyncio.sleep(max(0.0, seconds))
        try:
            await work(*arguments)
        except Exception as error:
            self.history.violation("crash", f"{work}{arguments}: {error!r}")
