"""Several senders write to many sessions, and sessions to each other, while workers are killed, stopped and their
shards moved, connections cut and stalled, publishers blocked, consumers thrown out: nothing confirmed is lost, nothing
takes effect twice, and each sender's messages take effect in its order."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from support import proxy, rabbitmq, redis_server
from support.driven_fleet import DrivenFleet, WorkerProcess, driven_fleet
from support.fleets import actor
from support.recording_actor import READ, STARTS, Applied, Operation

from troupe.chassis.wire import duration
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import GetMessageRequest, MessageStatus, SendRequest
from troupe.v1.envelope_pb2 import Content, SessionRef
from troupe.v1.resource_pb2 import ActorSpec

SHARDS, SESSIONS, SENDERS, EACH = 6, 10, 5, 24
WORKERS = ("w0", "w1", "w2")
STORM, KINDS = 20.0, 5
"""Seconds that faults go on at least, and until there were so many kinds of them."""
RECORDER = actor("recorder", ActorSpec(entry_point="support.recording_actor:Recorder"))


def session(name: str) -> SessionRef:
    return SessionRef(agent="recorder", session=name)


@dataclass
class Sent:
    """One operation, and the processes that it was given to."""

    session: str
    operation: Operation
    gateways: set[str] = field(default_factory=set)
    confirmed: bool = False


class Senders:
    """All of them, and what they know."""

    def __init__(self, fleet: DrivenFleet, dice: random.Random) -> None:
        self._fleet, self._dice = fleet, dice
        self.sent: dict[str, Sent] = {}
        """By message id."""

    async def write(self, sender: str) -> None:
        """One sender: each message is confirmed before the next is sent, by the same worker while that answers."""
        numbers: defaultdict[str, int] = defaultdict(int)
        gateway = self._gateway()
        for count in range(EACH):
            target = f"s{self._dice.randrange(SESSIONS)}"
            numbers[target] += 1
            message_id = f"{sender}-{count}"
            sent = self.sent[message_id] = Sent(target, self._operation(sender, numbers[target]))
            while not sent.confirmed:
                sent.gateways.add(gateway.instance_id)
                sent.confirmed = await self._sends(gateway, message_id, sent)
                if not sent.confirmed:
                    await asyncio.sleep(self._dice.uniform(0.05, 0.5))
                    gateway = gateway if gateway.runs and self._dice.random() < 0.5 else self._gateway()
            await asyncio.sleep(self._dice.uniform(0.0, 2 * STORM / EACH))

    async def _sends(self, gateway: WorkerProcess, message_id: str, sent: Sent) -> bool:
        if not gateway.serves:
            return False
        request = SendRequest(
            session=session(sent.session), message_id=message_id, content=Content(text=sent.operation.text())
        )
        try:
            async with self._fleet.agents(gateway) as stub:
                await stub.Send(request, timeout=self._dice.choice((1.0, 5.0, 15.0)))
        except grpc.aio.AioRpcError:
            return False
        return True

    def _gateway(self) -> WorkerProcess:
        return self._fleet.workers[self._dice.choice(WORKERS)]

    def _operation(self, sender: str, number: int) -> Operation:
        chance = self._dice.random()
        return Operation(
            sender,
            number,
            seconds=self._dice.choice((0.0, 0.0, 0.02, 0.3)),
            fails=self._dice.choice((1, 2)) if chance < 0.15 else 0,
            hopeless=0.15 <= chance < 0.2,
            forwards=[f"s{self._dice.randrange(SESSIONS)}" for _ in range(2)] if 0.2 <= chance < 0.5 else [],
        )


class Storm:
    """What befalls the fleet, one thing after another."""

    def __init__(
        self, fleet: DrivenFleet, node: rabbitmq.Node, lines: dict[str, proxy.Proxy], dice: random.Random
    ) -> None:
        self._fleet, self._node, self._lines, self._dice = fleet, node, lines, dice
        self.befell: list[str] = []

    async def rage(self, seconds: float) -> None:
        """For so long, and on until `KINDS` different things have befallen it, however slow the machine is."""
        faults: tuple[Callable[[], Awaitable[None]], ...] = (
            self.kill,
            self.kill,
            self.freeze,
            self.freeze_and_move,
            self.hand_over,
            self.hand_over,
            self.cut,
            self.stall,
            self.block,
            self.kill_blocked,
            self.kill_blocked,
            self.throw_out,
        )
        ends = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < ends or len(set(self.befell)) < KINDS:
            fault = self._dice.choice(faults)
            self.befell.append(fault.__name__)
            await fault()
            await asyncio.sleep(self._dice.uniform(0.0, 1.0))

    async def kill(self) -> None:
        worker = self._worker()
        shards = self._fleet.owned(worker.worker_id)
        await worker.kill()
        others = [name for name in WORKERS if name != worker.worker_id]
        if self._dice.random() < 0.5:
            await self._fleet.place({shard: self._dice.choice(others) for shard in shards})
            await self._fleet.start(worker.worker_id)
            await self._fleet.place({})
        else:
            await self._fleet.start(worker.worker_id)
            await self._fleet.place(dict.fromkeys(shards, worker.worker_id))

    async def freeze(self) -> None:
        worker = self._worker()
        worker.freeze()
        await asyncio.sleep(self._dice.choice((0.5, 3.0)))
        worker.thaw()

    async def freeze_and_move(self) -> None:
        """Its shards are given away while it sleeps, and it learns of it from the store, or late."""
        worker = self._worker()
        worker.freeze()
        others = [name for name in WORKERS if name != worker.worker_id]
        shards = self._fleet.owned(worker.worker_id)
        await self._fleet.place({shard: self._dice.choice(others) for shard in shards})
        await asyncio.sleep(self._dice.choice((0.5, 2.0)))
        worker.thaw()
        await asyncio.sleep(0.5)
        await self._fleet.place({})

    async def hand_over(self) -> None:
        shards = self._dice.sample(range(SHARDS), 2)
        await self._fleet.hand_over({shard: self._dice.choice(WORKERS) for shard in shards})

    async def cut(self) -> None:
        self._lines[self._worker().worker_id].cut()

    async def stall(self) -> None:
        line = self._lines[self._worker().worker_id]
        line.stall(to_client=self._dice.random() < 0.5)
        await asyncio.sleep(self._dice.choice((0.5, 3.0)))
        line.heal()

    async def block(self) -> None:
        await asyncio.to_thread(self._node.block_publishers)
        await asyncio.sleep(self._dice.choice((0.2, 1.5)))
        await asyncio.to_thread(self._node.unblock_publishers)

    async def kill_blocked(self) -> None:
        """What its turns sent to others is committed and not published when it dies."""
        await asyncio.to_thread(self._node.block_publishers)
        await asyncio.sleep(self._dice.uniform(0.3, 1.0))
        await self.kill()
        await asyncio.to_thread(self._node.unblock_publishers)

    async def throw_out(self) -> None:
        await asyncio.to_thread(self._node.close_connections, self._node.url)

    def _worker(self) -> WorkerProcess:
        return self._fleet.workers[self._dice.choice(WORKERS)]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", [1])
async def test_nothing_confirmed_is_lost_or_repeated_and_order_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setenv(STARTS, str(tmp_path / "starts"))
    dice = random.Random(seed)
    async with AsyncExitStack() as stack:
        # Given three workers on one RabbitMQ and one Redis
        node = stack.enter_context(rabbitmq.running())
        store = stack.enter_context(redis_server.running(tmp_path))
        fleet = await stack.enter_async_context(
            driven_fleet(
                tmp_path, broker=node.url, state=store.url(), shards=SHARDS, resources=[RECORDER], order_timeout=3
            )
        )
        lines = {}
        for name in WORKERS:
            line = lines[name] = await stack.enter_async_context(proxy.before(node.url))
            await fleet.start(name, broker=line.url(node.url))
        await fleet.place({shard: WORKERS[shard % len(WORKERS)] for shard in range(SHARDS)})

        # When senders write under a storm
        senders, storm = Senders(fleet, dice), Storm(fleet, node, lines, dice)
        async with asyncio.TaskGroup() as tasks:
            for sender in range(SENDERS):
                tasks.create_task(senders.write(f"c{sender}"))
            tasks.create_task(storm.rage(STORM))

        # Then every confirmed message comes to its end
        fates = await ends(fleet, senders)
        applied = await settled_state(fleet)
    check_effects(senders, fates, applied)
    check_order(senders, applied)
    check_forwards(senders, fates, applied)


async def ends(fleet: DrivenFleet, senders: Senders) -> dict[str, MessageStatus]:
    async def end(message_id: str, sent: Sent) -> MessageStatus:
        request = GetMessageRequest(session=session(sent.session), message_id=message_id, wait=duration(60))
        async with fleet.agents(fleet.workers["w0"]) as stub:
            return (await stub.GetMessage(request, timeout=70)).status  # type: ignore[no-any-return]

    statuses = await asyncio.gather(*(end(message_id, sent) for message_id, sent in senders.sent.items()))
    return dict(zip(senders.sent, statuses, strict=True))


async def settled_state(fleet: DrivenFleet) -> dict[str, Applied]:
    """What each session has applied, once none of them has anything on its way to another."""
    async with fleet.agents(fleet.workers["w1"]) as stub, asyncio.timeout(60):

        async def read(name: str) -> Applied:
            request = SendRequest(session=session(name), content=Content(text=READ), wait=duration(30))
            return Applied.read((await stub.Send(request, timeout=40)).status.result.text)

        while True:
            names = [f"s{number}" for number in range(SESSIONS)]
            found = dict(zip(names, await asyncio.gather(*map(read, names)), strict=True))
            sent = sum(sum(one.sent.values()) for one in found.values())
            came = sum(sender.startswith("session ") for one in found.values() for sender, _ in one.operations)
            if sent == came:
                return found
            await asyncio.sleep(0.5)


def check_effects(senders: Senders, fates: dict[str, MessageStatus], applied: dict[str, Applied]) -> None:
    for message_id, sent in senders.sent.items():
        operation, status = sent.operation, fates[message_id]
        times = applied[sent.session].operations.count((operation.sender, operation.number))
        if operation.hopeless:
            assert (status.fate, status.error.reason) == (turn_pb2.FATE_DEAD, "HOPELESS"), f"{message_id}: {status}"
            assert times == 0, f"{message_id} was given up and took effect"
        else:
            assert status.fate == turn_pb2.FATE_DONE, f"{message_id}: {status}"
            assert times == 1, f"{message_id} took effect {times} times"


def check_order(senders: Senders, applied: dict[str, Applied]) -> None:
    """One sender's messages by way of one process, to one session."""
    ways = {
        (sent.operation.sender, sent.session, sent.operation.number): next(iter(sent.gateways))
        for sent in senders.sent.values()
        if len(sent.gateways) == 1
    }
    for name, one in applied.items():
        came: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for sender, number in one.operations:
            if (sender, name, number) in ways:
                came[sender, ways[sender, name, number]].append(number)
        for (sender, _), numbers in came.items():
            assert numbers == sorted(numbers), f"{sender} to {name} came as {numbers}"


def check_forwards(senders: Senders, fates: dict[str, MessageStatus], applied: dict[str, Applied]) -> None:
    """What sessions sent each other came whole, once and in order."""
    assert sum(len(sent.operation.forwards) for sent in senders.sent.values()) > 0
    for source, one in applied.items():
        for target, count in one.sent.items():
            came = [number for sender, number in applied[target].operations if sender == f"session {source}"]
            assert came == list(range(1, count + 1)), f"{source} to {target}: {came}, not 1 to {count}"
