"""One schedule: a fleet, its users and its leaders, in virtual time."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from fault.simulation_rollout.checks import Broken, Checks
from fault.simulation_rollout.fleet import Luck, Worker
from fault.simulation_rollout.leader import Known, Leader, is_unfinished
from fault.simulation_rollout.line import Line

from troupe.chassis.errors import Aborted, FailedPrecondition
from troupe.controlplane.revisions import Accept, decide, roll_back
from troupe.controlplane.stages import COMPLETE, ROLLING_BACK, name
from troupe.v1.control_plane_pb2 import RollbackRequest, SyncRequest
from troupe.v1.resource_pb2 import ConfigSpec, Metadata, ModelSpec, Resource
from troupe.v1.rollout_pb2 import FailurePolicy, Rollout, RolloutPolicy, WorkerShare
from troupe.v1.status_pb2 import ApplyPhase, RevisionAttempt, StatusReport

STEPS = 120
QUIET = 1_400.0
"""Virtual seconds for each worker, in which every rollout ends once nothing new happens: a worker that hangs or is lost
costs one progress deadline, and one revision may be followed by its way back."""


@dataclass(slots=True)
class Message:
    """On its way between a leader and a process."""

    leader: Leader
    worker_id: str
    instance_id: str
    apply: ConfigSpec | None = None
    answer: RevisionAttempt | None = None
    report: StatusReport | None = None


@dataclass(slots=True)
class Run:
    """What one seed came to."""

    seed: int
    broken: str = ""
    trace: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def simulate(seed: int) -> Run:
    """Run one seed. The same seed, on the same code, takes the same steps."""
    world = World(seed)
    run = Run(seed, trace=world.trace, counts=world.checks.counts)
    try:
        world.run()
    except AssertionError as error:
        run.broken = str(error)
    return run


class World:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.checks, self.trace = Checks(), list[str]()
        self.now, self._ids, self._contents = 1_000.0, 0, 0
        self.line = Line(self.checks)
        self.luck = Luck(self.random)
        few = self.random.random() < 0.9
        self.workers = {f"w{n:02}": Worker(f"w{n:02}") for n in range(self.random.randint(1, 8 if few else 40))}
        self.checks.workers = self.workers
        self.supervised = self.random.random() < 0.6
        self.messages: list[Message] = []
        self.leader = Leader(self.line, self._send, self._way_back_id, self.line.lead())
        self.faults = self.random.choice((0.0, 0.03, 0.08))
        self.eager = self.random.choice((0.1, 0.3, 1.0))

    def run(self) -> None:
        if self.random.random() < 0.8:
            self._user()
            self._ends()
        for _ in range(STEPS):
            self._happens()
        for worker in self.workers.values():
            worker.reachable = True
        self._ends()

    def _happens(self) -> None:
        chance = self.random.random()
        if chance < self.faults:
            self.random.choice(
                (
                    self._dies,
                    self._dies,
                    self._cut,
                    self._joins,
                    self._joins_mute,
                    self._replaced,
                    self._drains,
                    self._returns,
                )
            )()
        elif chance < 0.10 and self.random.random() < self.eager:
            self._user()
        elif chance < 0.30:
            self._passes(self.random.choice((0.1, 0.5, 2.0, 4.0)))
        elif chance < 0.55:
            self._turn(dies=self.random.random() < self.faults * 2)
        elif chance < 0.75:
            self._concludes()
        else:
            for _ in range(min(len(self.messages), 4)):
                self._deliver(self.random.randrange(len(self.messages)), again=self.random.random() < 0.1)

    def _ends(self) -> None:
        """Nothing new happens; who is down stays down, and who hangs goes on hanging."""
        until, calm, ended = self.now + QUIET * (len(self.workers) + 1), 0, False
        while self.now < until and (calm < 3 or not ended):
            self._passes(100.0 if calm else 1.0, renew=True)
            for worker in self.workers.values():
                worker.concludes()
                self._truth(worker)
            while self.messages:
                self._deliver(0)
            before = self.line.revisions()
            self._turn()
            newest = before[-1] if before else None
            still = not self.messages and before == self.line.revisions()
            ended = newest is None or not is_unfinished(newest)
            calm = calm + 1 if still else 0
        self._judged()

    def _judged(self) -> None:
        line = self.line.revisions()
        for revision_id, content in self.checks.asked.items():
            if not any((about.revision_id, about.content_hash) == (revision_id, content) for about in line):
                raise Broken("a committed revision is lost")
        alive = [worker for worker in self.workers.values() if worker.up and not worker.draining]
        if not line or not alive:
            return
        newest = line[-1]
        if is_unfinished(newest):
            raise Broken(f"still {name(newest.rollout.stage)} at the end")
        for about in line:
            if about.rollout.stage == ROLLING_BACK or (is_unfinished(about) and about != newest):
                raise Broken(f"{name(about.rollout.stage)} after the end")
        if newest.rollout.stage != COMPLETE:
            return
        for worker in alive:
            has = worker.running is not None and worker.running.revision_id == newest.revision_id
            row = next((row for row in newest.rollout.workers if row.worker_id == worker.worker_id), None)
            told = row is not None and (row.failed or row.HasField("error"))
            if not (has or told or worker.hangs or worker.mute):
                raise Broken(f"{worker.worker_id} does not run what is COMPLETE, and nobody is told why")

    def _turn(self, dies: bool = False) -> None:
        turn = self.leader.turn(self.now)
        left = self.random.randint(0, 4) if dies else None
        self._note_known()
        for done, _ in enumerate(turn):
            if done == left:
                self._replaced()
                if self.random.random() < 0.5:
                    self._rest_of(turn)
                return

    def _rest_of(self, turn: Iterator[None]) -> None:
        """The leader before does not know yet that it was replaced."""
        for _ in turn:
            pass

    def _note_known(self) -> None:
        newest = self.line.head().revision_id
        alive = self.leader.alive(self.now)
        self.checks.trying = frozenset(
            worker.worker_id
            for worker in alive
            if (tried := worker.tried(newest)) is not None and tried.phase == ApplyPhase.APPLY_PHASE_PENDING
        )
        stay = [worker for worker in alive if not worker.draining]
        self.checks.ready = frozenset(worker.worker_id for worker in stay if worker.heard)
        self.checks.unheard = frozenset(worker.worker_id for worker in stay if not worker.heard)

    def _send(self, leader: Leader, worker_id: str, config: ConfigSpec) -> None:
        worker, found = self.workers[worker_id], self.line.revision(config.revision_id)
        assert found is not None
        runs = worker.running is not None and worker.running.revision_id == config.revision_id
        if leader.term == self.line.term:
            self.checks.sends(found[1], worker_id, runs, newest=config.revision_id == self.line.head().revision_id)
        self._tell(f"sent {config.revision_id[-3:]} to {worker_id}")
        self.messages.append(Message(leader, worker_id, leader.known[worker_id].instance_id, apply=config))

    def _deliver(self, index: int, again: bool = False) -> None:
        message = self.messages[index]
        worker = self.workers[message.worker_id]
        here = worker.up and worker.reachable and worker.instance_id == message.instance_id
        if not again or message.report is None:
            self.messages.pop(index)
        if message.apply is not None:
            if here:
                answer = worker.applies(message.apply, self.luck)
                self._truth(worker)
                if answer is not None:
                    self.messages.append(Message(message.leader, *_of(message), answer=answer))
        elif message.answer is not None:
            lost = self.random.random() < self.faults
            message.leader.answered(*_of(message), None if lost else message.answer, self.now)
        elif message.report is not None:
            message.leader.hears(message.report, self.now)

    def _passes(self, seconds: float, renew: bool = False) -> None:
        self.now += seconds
        for worker in self.workers.values():
            if not worker.up and self.supervised and self.random.random() < 0.3:
                worker.boots(wiped=self.random.random() < 0.2)
            if worker.up and worker.reachable and (renew or self.random.random() < 0.9):
                self.leader.registers(worker.worker_id, worker.instance_id, worker.draining, self.now)
                if worker.mute:
                    continue
                report = worker.report()
                self.messages.append(Message(self.leader, worker.worker_id, worker.instance_id, report=report))

    def _concludes(self) -> None:
        worker = self._any()
        worker.concludes()
        self._truth(worker)

    def _truth(self, worker: Worker) -> None:
        for revision_id in worker.had:
            self.checks.had.setdefault(revision_id, set()).add(worker.worker_id)

    def _dies(self) -> None:
        worker = self._any()
        self._tell(f"{worker.worker_id} dies")
        worker.dies()

    def _returns(self) -> None:
        for worker in self.workers.values():
            if not worker.up and self.random.random() < 0.7:
                worker.boots(wiped=self.random.random() < 0.1)
                self._tell(f"{worker.worker_id} returns")
            elif not worker.reachable:
                worker.reachable = True

    def _cut(self) -> None:
        self._any().reachable = False

    def _joins(self) -> None:
        worker_id = f"w{len(self.workers):02}"
        self.workers[worker_id] = Worker(worker_id)

    def _joins_mute(self) -> None:
        self._joins()
        self.workers[max(self.workers)].mute = True

    def _drains(self) -> None:
        self._any().draining = True

    def _any(self) -> Worker:
        return self.workers[self.random.choice(sorted(self.workers))]

    def _replaced(self) -> None:
        """Another leads, from what is stored and what the workers say."""
        self._tell("another leads")
        before, self.leader = (
            self.leader,
            Leader(self.line, self._send, self._way_back_id, self.line.lead()),
        )
        known: dict[str, Known] = {name: known for name, known in before.known.items() if self.random.random() < 0.95}
        self.leader.restores(known, self.now)

    def _user(self) -> None:
        head = self.line.head()
        newest = self.line.rollout(head.revision_id) if head.revision_id else Rollout()
        try:
            if self.random.random() < 0.25 and head.revision_id:
                to = self.line.last_complete(head.generation)
                request = RollbackRequest(
                    revision_id=self._id(), from_revision_id=head.revision_id, rollout=self._policy()
                )
                accepted = roll_back(request, head, None, newest, to[0] if to else None, self.now)
            else:
                if newest.stage in (1, 2, 3) and self.random.random() < 0.6:
                    return
                sync = SyncRequest(
                    revision_id=self._id(),
                    parent_revision_id=head.revision_id,
                    resources=[self._content()],
                    rollout=self._policy(),
                )
                accepted = decide(sync, head, None, newest, self.now)
            assert isinstance(accepted, Accept)
            self.line.commit(accepted, head)
        except (Aborted, FailedPrecondition):
            return
        self._tell(f"a user commits {accepted.config.revision_id[-3:]}")
        self.checks.asked[accepted.config.revision_id] = accepted.config.content_hash

    def _content(self) -> Resource:
        if self._contents == 0 or self.random.random() < 0.8:
            self._contents += 1
        resource = Resource(kind="Model", metadata=Metadata(name=f"m{self._contents}"))
        resource.spec.Pack(ModelSpec(model=f"model {self._contents}"))
        return resource

    def _policy(self) -> RolloutPolicy:
        def share(least: int) -> WorkerShare:
            if self.random.random() < 0.5:
                return WorkerShare(workers=self.random.randint(least, 3))
            return WorkerShare(percent=self.random.choice((10, 25, 50, 100)))

        policy = RolloutPolicy(on_failure=self.random.choice(FailurePolicy.values()))
        if self.random.random() < 0.7:
            policy.canary.CopyFrom(share(0))
        if self.random.random() < 0.7:
            policy.max_unavailable.CopyFrom(share(1))
        if self.random.random() < 0.7:
            policy.max_failures = self.random.randint(0, 3)
        return policy

    def _id(self) -> str:
        self._ids += 1
        return f"01900000-0000-7000-8000-{self._ids:012}"

    def _way_back_id(self) -> str:
        revision_id = self._id()
        self.checks.ways_back.add(revision_id)
        return revision_id

    def _tell(self, line: str) -> None:
        self.trace.append(f"{self.now:8.1f} {line}")


def _of(message: Message) -> tuple[str, str]:
    return message.worker_id, message.instance_id
