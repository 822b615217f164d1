"""One schedule: control planes, workers, users and faults, in virtual time."""

import asyncio
import itertools
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from unittest import mock

from fault.leadership.network import Machine, Weather
from fault.simulation import loop as virtual
from fault.simulation_control.checks import Checks
from fault.simulation_control.network import Network, StoreSeen
from fault.simulation_control.planes import Plane
from fault.simulation_control.store import Backup, WatchedStore
from fault.simulation_control.worker import ACTIVE, Fence, Fortune, Host, Process
from fault.simulation_control.worker import Surroundings as WorkersAround
from support.fleets import model

from troupe.chassis.errors import FailedPrecondition, TroupeError, Unavailable
from troupe.chassis.servers import Servers, is_elsewhere
from troupe.chassis.wire import seconds
from troupe.controlplane import (
    leadership,
    line,
    link,
    moving,
    outcomes,
    reign,
    rolling,
    standby,
    syncs,
)
from troupe.controlplane.placement import Candidate, Member, following
from troupe.controlplane.reign import Reign
from troupe.controlplane.stages import COMPLETE, ROLLING_BACK, UNFINISHED, name
from troupe.controlplane.weights import weight_of
from troupe.dataplane import config as applying
from troupe.v1.control_plane_pb2 import DrainRequest, GetRevisionRequest, RegisterRequest, RollbackRequest, SyncRequest
from troupe.v1.resource_pb2 import ModelSpec
from troupe.v1.rollout_pb2 import FailurePolicy, RolloutPolicy, WorkerShare
from troupe.v1.status_pb2 import Capacity, StatusReport

SHARDS = 12
DRIFT = 0.02
PROGRESS = 60.0
"""In place of ten minutes."""
CALM = 600.0
"""Seconds within which everything has come to its end once nothing new happens."""
FORTUNES = (Fortune.BAD, Fortune.FOR_NOW, Fortune.SICK, Fortune.KILLS)

T = TypeVar("T")


@dataclass
class Run:
    """What one seed came to."""

    seed: int
    broken: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def simulate(seed: int) -> Run:
    """Run one seed. The same seed, on the same code, takes the same steps."""
    loop = virtual.VirtualLoop()
    run = Run(seed)
    with _virtual(), ExitStack() as stack:
        stack.callback(loop.close)
        asyncio.set_event_loop(loop)
        stack.callback(asyncio.set_event_loop, None)
        world = World(seed, run)
        stack.enter_context(_listened(world.checks))
        try:
            loop.run_until_complete(world.run())
        except (virtual.Stalled, virtual.Spinning) as error:
            world.checks.broken(f"no end: {error!r}")
        run.broken, run.counts = world.checks.found, dict(world.checks.counts) | dict.fromkeys(world.checks.ended, 1)
    return run


@contextmanager
def _listened(checks: Checks) -> Iterator[None]:
    """What a leader hears, and when it began, is noted."""
    report, register, restore = Reign.report, Reign._register, Reign._restore

    def reported(self: Reign, member: Member, said: StatusReport) -> None:
        checks.heard[member.instance_id, self.term] = checks.time()
        report(self, member, said)

    async def registered(self: Reign, member: Member, *given: Any) -> None:
        checks.heard[member.instance_id, self.term] = checks.time()
        await register(self, member, *given)

    async def restored(self: Reign) -> None:
        await restore(self)
        checks.began[self.term] = checks.time()

    with mock.patch.multiple(Reign, report=reported, _register=registered, _restore=restored):
        yield


@contextmanager
def _virtual() -> Iterator[None]:
    """Threads are steps, ids are counted, ten minutes are one, and nothing is logged."""

    async def inline(work: Any, *given: Any) -> Any:
        await asyncio.sleep(0)
        return work(*given)

    ids = (f"01900000-0000-7000-9000-{number:012}" for number in itertools.count(1))
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(asyncio, "to_thread", inline))
        stack.enter_context(mock.patch.object(rolling, "uuid7", lambda: next(ids)))
        stack.enter_context(mock.patch.object(outcomes, "PROGRESS_DEADLINE", PROGRESS))
        stack.enter_context(mock.patch.object(virtual, "MAX_JUMPS", 3_000_000))
        for module in (leadership, link, line, moving, reign, rolling, standby, syncs, applying):
            stack.enter_context(mock.patch.object(module, "log"))
        yield


class World:
    """`run` it inside a virtual loop."""

    def __init__(self, seed: int, run: Run) -> None:
        self.dice, self._trace = random.Random(seed), run.trace
        self.weather = Weather(self.dice)
        self.store, self.fence = WatchedStore(SHARDS), Fence()
        self.checks = Checks(self._time, self._process)
        self.store.wrote, self.store.committed = self.checks.wrote, self.checks.committed
        self.store.placed = self.checks.placed
        self.planes: list[Plane] = []
        self.hosts: dict[str, Host] = {}
        self.gone: set[str] = set()
        """Workers that do not come back."""
        self.backup: Backup | None = None
        self._names, self._ids, self._content = itertools.count(1), itertools.count(1), 0
        self._fortunes: dict[tuple[str, str], Fortune] = {}
        self._tempers: dict[str, float] = {}
        self._parents: dict[str, str] = {}

    def _time(self) -> float:
        return asyncio.get_running_loop().time()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as self._requests, asyncio.TaskGroup() as self._tasks:
            self.network = Network(self.dice, self.weather, self._requests)
            self._around = WorkersAround(
                self.dice, self.fence, Machine("any", 1.0), self._tasks, self._fortune, self.checks.broken
            )
            for _ in range(self.dice.choice((1, 2, 2, 3))):
                self._plane()
            for _ in range(self.dice.randint(1, 6)):
                self._joins()
            watching = asyncio.create_task(self._watching())
            supervising = asyncio.create_task(self._supervising())
            try:
                self._syncs()
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
        for plane in self.planes:
            plane.machine.go_on()
            plane.task.cancel()
        for end in await asyncio.gather(*(plane.task for plane in self.planes), return_exceptions=True):
            if not isinstance(end, asyncio.CancelledError):
                self.checks.broken(f"a control plane came to an end: {end!r}")

    # --- what happens

    def _befalls(self) -> None:
        what = self.dice.choices(
            (
                *(self._syncs, self._syncs, self._rolls_back, self._drains, self._joins, self._dies, self._twin),
                *(self._stops, self._cuts, self._hangs, self._slow, self._storms, self._heals, self._plane_dies),
                *(self._plane_stops, self._plane_ends, self._plane, self._saves, self._restores, self._leaves),
            ),
            (6, 6, 2, 2, 1, 2, 0.5, 1, 1.5, 1, 1, 2, 2, 3, 1, 2, 0.5, 1, 0.7, 0.4),
        )[0]
        self._tell(what.__name__.strip("_"))
        what()

    def _plane(self) -> None:
        if len(self.planes) >= 4:
            return
        plane_name = f"plane-{next(self._names)}"
        machine = Machine(plane_name, self.dice.uniform(1 - DRIFT, 1 + DRIFT))
        store = StoreSeen(self.store, machine, self.weather, self._requests)
        self.planes.append(Plane(plane_name, machine, store, self.network, self.dice, self._listening))

    def _plane_dies(self) -> None:
        self._plane_ended(dead=True)

    def _plane_ends(self) -> None:
        self._plane_ended(dead=False)

    def _plane_ended(self, dead: bool) -> None:
        if not self.planes:
            return
        plane = next((plane for plane in self.planes if plane.leads), self.dice.choice(self.planes))
        plane.machine.dead = dead
        self._tasks.create_task(self._buried(plane))

    async def _buried(self, plane: Plane) -> None:
        """The process ends, at once or tidily; another starts in its place soon."""
        plane.machine.go_on()
        self.planes.remove(plane)
        plane.task.cancel()
        (end,) = await asyncio.gather(plane.task, return_exceptions=True)
        if not isinstance(end, asyncio.CancelledError):
            self.checks.broken(f"{plane.name} came to an end: {end!r}")
        plane.machine.dead = True
        if not self.planes or self.dice.random() < 0.8:
            await asyncio.sleep(self.dice.choice((0.5, 5.0)))
            self._plane()

    def _plane_stops(self) -> None:
        """The leader stands still, often for so long that another one leads when it goes on."""
        plane = next((plane for plane in self.planes if plane.leads), None)
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
            for plane in list(self.planes):
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
            self._tasks.create_task(self._asks("Drain", DrainRequest(worker_id=process.host.worker_id)))

    def _cuts(self) -> None:
        names = [plane.name for plane in self.planes] + list(self.hosts)
        self.weather.cut ^= {self.dice.choice(names)}

    def _storms(self) -> None:
        self.weather.bad = not self.weather.bad

    def _heals(self) -> None:
        self.weather.bad = False
        self.weather.cut.clear()
        for plane in self.planes:
            plane.machine.go_on()
        for host in self.hosts.values():
            for process in host.up:
                process.stopped = process.hangs = False
                process.slow = 0.0

    # --- users

    def _syncs(self) -> None:
        self._tasks.create_task(self._user_syncs())

    async def _user_syncs(self) -> None:
        if self.dice.random() < 0.8:
            self._content += 1
        number = self._content
        resources = [model(f"m{each}", ModelSpec(model=f"model {number}")) for each in range(3)]
        request = SyncRequest(revision_id=self._id(), resources=resources, rollout=self._policy())
        newest = await self._asks("GetRevision", GetRevisionRequest())
        request.parent_revision_id = newest.revision.revision_id if newest is not None else ""
        # Users see what they started from a moment ago.
        await asyncio.sleep(self.dice.choice((0.0, 0.0, 0.5)))
        await self._writes("Sync", request)

    def _rolls_back(self) -> None:
        self._tasks.create_task(self._user_rolls_back())

    async def _user_rolls_back(self) -> None:
        newest = await self._asks("GetRevision", GetRevisionRequest())
        if newest is not None:
            left = newest.revision.revision_id
            request = RollbackRequest(revision_id=self._id(), from_revision_id=left, rollout=self._policy())
            await self._writes("Rollback", request)

    async def _writes(self, method: str, request: Any) -> None:
        answer = await self._asks(method, request)
        if answer is None and self.dice.random() < 0.5:
            answer = await self._asks(method, request)
        if answer is None:
            return
        about = answer.revision
        stored = await self.store.revision(about.revision_id)
        if stored is not None:
            self.checks.asked[about.revision_id] = about.content_hash
        elif not self.checks.counts["restored"]:
            self.checks.broken(f"{method} was confirmed and is not stored")

    async def _asks(self, method: str, request: Any) -> Any:
        """What some control plane answers, the leader it names tried after it; None where that is an error."""
        while not self.planes:
            await asyncio.sleep(0.5)
        servers = Servers([plane.address for plane in self.planes])
        for _ in range(4):
            try:
                return await self._ask(servers.address, "user", method, request, 8.0)
            except TroupeError as error:
                if not (is_elsewhere(error) and servers.failed(error)):
                    await asyncio.sleep(0.5)
                if not is_elsewhere(error):
                    self.checks.counts[error.reason] += 1
                    return None
        return None

    async def _ask(self, address: str, source: str, method: str, request: Any, timeout: float) -> Any:
        plane = next((plane for plane in self.planes if plane.address == address), None)
        if plane is None:
            await asyncio.sleep(self.weather.way())
            raise Unavailable("UNREACHABLE", f"nobody listens at {address}")
        given = type(request)()
        given.CopyFrom(request)
        return await plane.asked(source, method, given, timeout)

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
            if servers.address not in (known := [plane.address for plane in self.planes]) and known:
                # Control planes have names that stay, though here each process has one of its own.
                servers = Servers(self.dice.sample(known, len(known)))
            try:
                answer = await self._ask(servers.address, process.host.worker_id, "Register", request, 4.0)
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
        while not self.planes:
            await asyncio.sleep(1.0)
        until, still = self._time() + CALM, 0
        while still < 2 and self._time() < until:
            await asyncio.sleep(10.0)
            still = still + 1 if not await self._wrong() else 0
        if still < 2:
            for wrong in await self._wrong():
                self.checks.broken(f"after the end, {wrong}")
        commits = self.checks.counts["by itself"]
        await asyncio.sleep(30.0)
        if self.checks.counts["by itself"] != commits:
            self.checks.broken("revisions go on coming")

    async def _wrong(self) -> list[str]:
        wrong = []
        leads = [plane.name for plane in self.planes if plane.leads]
        if len(leads) != 1:
            wrong.append(f"{leads} lead")
        wrong += await self._wrong_revisions()
        wrong += await self._wrong_shards()
        return wrong

    async def _wrong_revisions(self) -> list[str]:
        wrong, line = [], await self.store.revisions(1000)
        self.checks.ended.update(name(about.rollout.stage) for about in line)
        for revision_id, content in self.checks.asked.items():
            if (revision_id, content) not in [(about.revision_id, about.content_hash) for about in line]:
                wrong.append(f"committed revision {revision_id[-3:]} is lost")
        for about in line:
            if any(row.error.reason == "PREPARE_FAILED" for row in about.rollout.workers):
                wrong.append("a worker of the simulation is defective")
            if about.rollout.stage in UNFINISHED or about.rollout.stage == ROLLING_BACK:
                wrong.append(f"{about.revision_id[-3:]} is {name(about.rollout.stage)}")
        if not line or line[0].rollout.stage != COMPLETE:
            return wrong
        rows = {row.worker_id: row for row in line[0].rollout.workers}
        for process in self._there():
            running = process.applier.running
            tried = process.applier.last_attempt
            row = rows.get(process.host.worker_id)
            has = running is not None and running.config.revision_id == line[0].revision_id
            failed = tried is not None and tried.revision_id == line[0].revision_id and tried.HasField("error")
            if not (has or failed or (row is not None and row.failed)):
                wrong.append(f"{process.instance_id} does not run what is COMPLETE")
        return wrong

    async def _wrong_shards(self) -> list[str]:
        there, placement = self._there(), await self.store.placement()
        if not there:
            return []
        wrong = []
        newest = {process.host.worker_id: process for process in there}
        candidates = [
            Candidate(Member(name, process.instance_id, process.address), weight_of(process.host.capacity))
            for name, process in newest.items()
        ]
        alive = {process.instance_id for process in there}
        if len(newest) == len(there) and following(placement, candidates, alive, frozenset()) is not placement:
            wrong.append("the placement is not what is wanted")
        for number, shard in enumerate(placement.shards):
            owner = self._process(shard.owner.instance_id) if shard is not None else None
            if shard is None or owner is None or shard.revoked:
                wrong.append(f"shard {number} has no owner, or one that is to hand it over")
                continue
            held = owner.held.get(number)
            if not owner.alive or held is None or (held.epoch, held.state) != (shard.epoch, ACTIVE):
                wrong.append(f"shard {number} is not held by {owner.instance_id} under {shard.epoch}: {held}")
            elif not self.fence.takes(number, shard.epoch, owner.instance_id):
                wrong.append(f"the fence knows another owner of shard {number}")
        for process in there:
            for number in process.held:
                shard = placement.shards[number]
                if shard is None or shard.owner.instance_id != process.instance_id:
                    wrong.append(f"{process.instance_id} holds shard {number}, which is another's")
        return wrong

    def _there(self) -> list[Process]:
        return [process for host in self.hosts.values() for process in host.up if not process.draining]

    # --- small things

    def _any_host(self) -> Host | None:
        return self.dice.choice([*self.hosts.values()]) if self.hosts else None

    def _any_process(self) -> Process | None:
        up = [process for host in self.hosts.values() for process in host.up]
        return self.dice.choice(up) if up else None

    def _policy(self) -> RolloutPolicy:
        policy = RolloutPolicy()
        if self.dice.random() < 0.3:
            policy.on_failure = self.dice.choice(FailurePolicy.values())
        if self.dice.random() < 0.6:
            policy.canary.CopyFrom(WorkerShare(workers=self.dice.randint(0, 2)))
        if self.dice.random() < 0.6:
            policy.max_unavailable.CopyFrom(WorkerShare(percent=self.dice.choice((25, 50, 100))))
        if self.dice.random() < 0.6:
            policy.max_failures = self.dice.randint(0, 2)
        return policy

    def _id(self) -> str:
        revision_id = f"01900000-0000-7000-8000-{next(self._ids):012}"
        self.checks.by_users.add(revision_id)
        return revision_id

    def _tell(self, what: str) -> None:
        self._trace.append(f"{self._time():8.2f} {what}")
