"""One schedule: control planes, workers, users and faults, in virtual time."""

import asyncio
import itertools
import random

from fault.leadership.network import Machine, Weather
from fault.simulation_control.checks import Checks
from fault.simulation_control.convergence import Convergence
from fault.simulation_control.network import Network, StoreSeen
from fault.simulation_control.planes import Plane, Planes
from fault.simulation_control.store import Backup, WatchedStore
from fault.simulation_control.users import Users
from fault.simulation_control.worker import Fence, Fortune, Host, Process
from fault.simulation_control.worker import Surroundings as WorkersAround

from troupe.chassis.errors import FailedPrecondition, TroupeError, Unavailable
from troupe.chassis.servers import Servers, is_elsewhere
from troupe.chassis.wire import seconds
from troupe.v1.control_plane_pb2 import RegisterRequest
from troupe.v1.status_pb2 import Capacity

SHARDS = 12
DRIFT = 0.02
CALM = 600.0
"""Seconds within which everything has come to its end once nothing new happens."""
FORTUNES = (Fortune.BAD, Fortune.FOR_NOW, Fortune.SICK, Fortune.KILLS)


class World:
    """`run` it inside a virtual loop."""

    def __init__(self, seed: int, trace: list[str]) -> None:
        self.dice, self._trace = random.Random(seed), trace
        self.weather = Weather(self.dice)
        self.store, self.fence = WatchedStore(SHARDS), Fence()
        self.checks = Checks(self._time, self._process)
        self.store.wrote, self.store.committed = self.checks.wrote, self.checks.committed
        self.store.placed = self.checks.placed
        self.planes = Planes(self.weather)
        self.hosts: dict[str, Host] = {}
        self.gone: set[str] = set()
        """Workers that do not come back."""
        self.backup: Backup | None = None
        self._names = itertools.count(1)
        self._fortunes: dict[tuple[str, str], Fortune] = {}
        self._tempers: dict[str, float] = {}

    def _time(self) -> float:
        return asyncio.get_running_loop().time()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as self._requests, asyncio.TaskGroup() as self._tasks:
            self.network = Network(self.dice, self.weather, self._requests)
            self._around = WorkersAround(
                self.dice, self.fence, Machine("any", 1.0), self._tasks, self._fortune, self.checks.broken
            )
            self._users = Users(self.dice, self.planes, self.store, self.checks, self._tasks)
            for _ in range(self.dice.choice((1, 2, 2, 3))):
                self._plane()
            for _ in range(self.dice.randint(1, 6)):
                self._joins()
            watching = asyncio.create_task(self._watching())
            supervising = asyncio.create_task(self._supervising())
            try:
                self._users.syncs()
                for _ in range(self.dice.randint(8, 25)):
                    await asyncio.sleep(self.dice.choice((0.2, 1.0, 4.0, 15.0)) * self.dice.random())
                    self._befalls()
                await self._calms()
            finally:
                for task in (watching, supervising):
                    task.cancel()
                await self._ends()

    async def _ends(self) -> None:
        for host in self.hosts.values():
            for process in host.up:
                process.dies()
        for plane in self.planes.up:
            plane.machine.go_on()
            plane.task.cancel()
        for end in await asyncio.gather(*(plane.task for plane in self.planes.up), return_exceptions=True):
            if not isinstance(end, asyncio.CancelledError):
                self.checks.broken(f"a control plane came to an end: {end!r}")

    # --- what happens

    def _befalls(self) -> None:
        what = self.dice.choices(
            (
                *(self._users.syncs, self._users.syncs, self._users.rolls_back),
                *(self._drains, self._joins, self._dies, self._twin),
                *(self._stops, self._cuts, self._hangs, self._slow, self._storms, self._heals, self._plane_dies),
                *(self._plane_stops, self._plane_ends, self._plane, self._saves, self._restores, self._leaves),
            ),
            (6, 6, 2, 2, 1, 2, 0.5, 1, 1.5, 1, 1, 2, 2, 3, 1, 2, 0.5, 1, 0.7, 0.4),
        )[0]
        self._tell(what.__name__.strip("_"))
        what()

    def _plane(self) -> None:
        if len(self.planes.up) >= 4:
            return
        plane_name = f"plane-{next(self._names)}"
        machine = Machine(plane_name, self.dice.uniform(1 - DRIFT, 1 + DRIFT))
        store = StoreSeen(self.store, machine, self.weather, self._requests)
        self.planes.up.append(Plane(plane_name, machine, store, self.network, self.dice, self._listening))

    def _plane_dies(self) -> None:
        self._plane_ended(dead=True)

    def _plane_ends(self) -> None:
        self._plane_ended(dead=False)

    def _plane_ended(self, dead: bool) -> None:
        if not self.planes.up:
            return
        anyone = self.dice.choice(self.planes.up)
        plane = self.planes.leading or anyone
        plane.machine.dead = dead
        self._tasks.create_task(self._buried(plane))

    async def _buried(self, plane: Plane) -> None:
        """The process ends, at once or tidily; another starts in its place soon."""
        plane.machine.go_on()
        self.planes.up.remove(plane)
        plane.task.cancel()
        (end,) = await asyncio.gather(plane.task, return_exceptions=True)
        if not isinstance(end, asyncio.CancelledError):
            self.checks.broken(f"{plane.name} came to an end: {end!r}")
        plane.machine.dead = True
        if not self.planes.up or self.dice.random() < 0.8:
            await asyncio.sleep(self.dice.choice((0.5, 5.0)))
            self._plane()

    def _plane_stops(self) -> None:
        """The leader stands still, often for so long that another one leads when it goes on."""
        plane = self.planes.leading
        if plane is not None and not plane.machine.stopped:
            plane.machine.stop()
            asyncio.get_running_loop().call_later(self.dice.uniform(5.0, 40.0), plane.machine.go_on)

    def _saves(self) -> None:
        self.backup = self.store.backup()

    def _restores(self) -> None:
        """The store is lost, and a backup is put in its place, be control planes running or not."""
        if self.backup is None:
            return
        if self.dice.random() < 0.7:
            for plane in list(self.planes.up):
                plane.machine.dead = True
                self._tasks.create_task(self._buried(plane))
        self.store.restore(self.backup)
        self._tasks.create_task(self._noted())

    async def _noted(self) -> None:
        kept = [about.revision_id for about in await self.store.revisions(1000)]
        self.checks.restored(set(kept), kept[0] if kept else "")

    def _joins(self) -> None:
        if len(self.hosts) >= 8:
            return
        cpus = self.dice.choice((0.5, 1.0, 1.0, 2.0, 4.0))
        host = Host(f"worker-{len(self.hosts) + 1}", Capacity(cpus=cpus, memory_bytes=64 << 30))
        self.hosts[host.worker_id] = host
        self._boots(host)

    def _boots(self, host: Host) -> None:
        process = Process(host, self._around)
        if host.processes[:-1] and self.dice.random() < 0.5 and not host.up[:-1]:
            process.address = host.processes[-2].address
        self._tasks.create_task(process.run())
        self._tasks.create_task(self._registers(process))

    def _twin(self) -> None:
        if host := self._any_host():
            self._boots(host)

    def _dies(self) -> None:
        if process := self._any_process():
            if self.dice.random() < 0.15:
                process.host.disk.good = process.host.disk.pending = None
            process.dies()

    def _leaves(self) -> None:
        if (process := self._any_process()) and len(self.hosts) - len(self.gone) > 1:
            self.gone.add(process.host.worker_id)
            process.dies()

    def _stops(self) -> None:
        if process := self._any_process():
            process.stopped = not process.stopped

    def _hangs(self) -> None:
        if process := self._any_process():
            process.hangs = not process.hangs

    def _slow(self) -> None:
        if process := self._any_process():
            process.slow = self.dice.choice((0.0, 8.0, 45.0))

    def _drains(self) -> None:
        process = self._any_process()
        if process is None:
            return
        if self.dice.random() < 0.4:
            process.drain()
        else:
            self._users.drains(process.host.worker_id)

    def _cuts(self) -> None:
        names = [plane.name for plane in self.planes.up] + list(self.hosts)
        self.weather.cut ^= {self.dice.choice(names)}

    def _storms(self) -> None:
        self.weather.bad = not self.weather.bad

    def _heals(self) -> None:
        self.weather.bad = False
        self.weather.cut.clear()
        for plane in self.planes.up:
            plane.machine.go_on()
        for host in self.hosts.values():
            for process in host.up:
                process.stopped = process.hangs = False
                process.slow = 0.0

    # --- workers

    async def _registers(self, process: Process) -> None:
        """As a worker does."""
        request = RegisterRequest(
            worker_id=process.host.worker_id,
            instance_id=process.instance_id,
            address=process.address,
            capacity=process.host.capacity,
        )
        servers = Servers([f"plane-{number}:1" for number in (1, 2)])
        newest = 0
        while process.alive:
            await process.running()
            if servers.address not in (known := self.planes.addresses) and known:
                # Control planes have names that stay, though here each process has one of its own.
                servers = Servers(self.dice.sample(known, len(known)))
            try:
                answer = await self.planes.ask(servers.address, process.host.worker_id, "Register", request, 4.0)
                newest = max(newest, process.position[0])
                if answer.term < newest:
                    raise Unavailable("OLD_LEADER", "an old leader")
                newest = answer.term
            except FailedPrecondition as error:
                if error.reason == "REPLACED":
                    self.checks.counts["replaced"] += 1
                    process.replaced()
                wait = 1.0
            except TroupeError as error:
                wait = 0.1 if is_elsewhere(error) and servers.failed(error) else 1.0
            else:
                servers.answered()
                wait = seconds(answer.renew_after)
            await asyncio.sleep(wait)

    def _listening(self, address: str) -> Process | None:
        found = [process for host in self.hosts.values() for process in host.up if process.address == address]
        return found[-1] if found else None

    def _process(self, instance_id: str) -> Process | None:
        host = self.hosts.get(instance_id.split("/", maxsplit=1)[0])
        return next((one for one in host.processes if one.instance_id == instance_id), None) if host else None

    async def _supervising(self) -> None:
        """Who is down and not gone is started again."""
        while True:
            await asyncio.sleep(self.dice.choice((1.0, 4.0, 12.0)))
            for host in self.hosts.values():
                if not host.up and host.worker_id not in self.gone:
                    self._boots(host)

    async def _watching(self) -> None:
        while True:
            for host in self.hosts.values():
                for process in host.up:
                    self.checks.runs(process)
            await asyncio.sleep(0.5)

    def _fortune(self, worker_id: str, content: str) -> Fortune:
        """Most contents go well everywhere; some with nobody, some with a few."""
        if content not in self._tempers:
            # There is something to go back to: the first goes well.
            self._tempers[content] = self.dice.choice((0.0, 0.0, 0.15, 0.5, 1.0)) if self._tempers else 0.0
        key = (worker_id, content)
        if key not in self._fortunes:
            fails = self.dice.random() < self._tempers[content]
            self._fortunes[key] = self.dice.choice(FORTUNES) if fails else Fortune.GOOD
        return self._fortunes[key]

    # --- the end

    async def _calms(self) -> None:
        """Without new faults everything comes to its end."""
        self._tell("calm")
        self._heals()
        while not self.planes.up:
            await asyncio.sleep(1.0)
        convergence = Convergence(self.planes, self.hosts, self.store, self.fence, self.checks)
        until, still = self._time() + CALM, 0
        while still < 2 and self._time() < until:
            await asyncio.sleep(10.0)
            still = still + 1 if not await convergence.wrong() else 0
        if still < 2:
            for wrong in await convergence.wrong():
                self.checks.broken(f"after the end, {wrong}")
        commits = self.checks.counts["by itself"]
        await asyncio.sleep(30.0)
        if self.checks.counts["by itself"] != commits:
            self.checks.broken("revisions go on coming")

    # --- small things

    def _any_host(self) -> Host | None:
        return self.dice.choice([*self.hosts.values()]) if self.hosts else None

    def _any_process(self) -> Process | None:
        up = [process for host in self.hosts.values() for process in host.up]
        return self.dice.choice(up) if up else None

    def _tell(self, what: str) -> None:
        self._trace.append(f"{self._time():8.2f} {what}")
