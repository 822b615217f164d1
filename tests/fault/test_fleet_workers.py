"""Workers as processes on a real RabbitMQ and Redis: one that a message kills, twenty handovers in a row, bodies that
nobody can read."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pika
import pytest
from support import rabbitmq, redis_server
from support.driven_fleet import DrivenFleet, driven_fleet
from support.fleets import actor
from support.recording_actor import READ, STARTS, Applied, Operation

from troupe.broker.addressing import SessionKey, mailbox
from troupe.chassis.ids import uuid7
from troupe.chassis.rpc_client import channel
from troupe.chassis.wire import duration
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import GetMessageRequest, MessageStatus, SendRequest
from troupe.v1.dead_letter_pb2 import DeadLetter, ListDeadLettersRequest
from troupe.v1.dead_letter_pb2_grpc import DeadLetterServiceStub
from troupe.v1.envelope_pb2 import Content, SessionRef
from troupe.v1.resource_pb2 import ActorSpec

RECORDER = actor("recorder", ActorSpec(entry_point="support.recording_actor:Recorder"))


class Fleets:
    """Opens a fleet on the servers of this module, each with a vhost and a database prefix of its own."""

    def __init__(self, directory: Path, node: rabbitmq.Node, store: redis_server.RedisServer) -> None:
        self._directory, self._node, self._store = directory, node, store
        self.broker = node.vhost()

    @asynccontextmanager
    async def opened(self, shards: int, workers: Sequence[str], **flags: Any) -> AsyncIterator[DrivenFleet]:
        async with driven_fleet(
            self._directory,
            broker=self.broker,
            state=self._store.url(uuid7()),
            shards=shards,
            resources=[RECORDER],
            **flags,
        ) as fleet:
            for name in workers:
                await fleet.start(name)
            await fleet.place({shard: workers[shard % len(workers)] for shard in range(shards)})
            yield fleet


@pytest.fixture
def fleets(
    tmp_path: Path, node: rabbitmq.Node, store: redis_server.RedisServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fleets]:
    monkeypatch.setenv(STARTS, str(tmp_path / "starts"))
    found = Fleets(tmp_path, node, store)
    yield found
    node.drop_vhost(found.broker)


def session(name: str) -> SessionRef:
    return SessionRef(agent="recorder", session=name)


async def send(fleet: DrivenFleet, worker: str, name: str, operation: Operation) -> str:
    """The message's id, once it is confirmed."""
    message_id = f"{operation.sender}-{operation.number}"
    request = SendRequest(session=session(name), message_id=message_id, content=Content(text=operation.text()))
    async with fleet.agents(fleet.workers[worker]) as stub:
        await stub.Send(request, timeout=20)
    return message_id


async def end(fleet: DrivenFleet, worker: str, name: str, message_id: str, within: float = 60.0) -> MessageStatus:
    request = GetMessageRequest(session=session(name), message_id=message_id, wait=duration(within))
    async with fleet.agents(fleet.workers[worker]) as stub:
        return (await stub.GetMessage(request, timeout=within + 10)).status  # type: ignore[no-any-return]


async def end_unless_killed(fleet: DrivenFleet, worker: str, name: str, message_id: str) -> MessageStatus | None:
    """None where the worker's process ends first."""
    try:
        return await end(fleet, worker, name, message_id, within=100)
    except grpc.aio.AioRpcError:
        await fleet.workers[worker].process.wait()
        return None


async def applied(fleet: DrivenFleet, worker: str, name: str) -> Applied:
    request = SendRequest(session=session(name), content=Content(text=READ), wait=duration(30))
    async with fleet.agents(fleet.workers[worker]) as stub:
        return Applied.read((await stub.Send(request, timeout=40)).status.result.text)


async def letters(fleet: DrivenFleet, worker: str) -> list[DeadLetter]:
    async with channel(fleet.workers[worker].address) as connection:
        stub: Any = DeadLetterServiceStub(connection)
        return list((await stub.ListDeadLetters(ListDeadLettersRequest(), timeout=20)).letters)


def shard_of(name: str, shards: int) -> int:
    return SessionKey("default", "default", "recorder", name).shard(shards)


def sessions_in(shard: int, shards: int, count: int) -> list[str]:
    """So many sessions that lie in this shard."""
    found = (name for name in (f"s{number}" for number in range(100_000)) if shard_of(name, shards) == shard)
    return [next(found) for _ in range(count)]


async def test_a_message_that_kills_its_worker_is_given_up_and_the_64_beside_it_are_not(fleets: Fleets) -> None:
    shards = 4
    async with fleets.opened(shards, ["w0"]) as fleet:
        # Given 64 messages under way in as many sessions, 16 in each shard
        innocents = [name for shard in range(shards) for name in sessions_in(shard, shards, 16)]
        slow = [Operation(f"to {name}", 1, seconds=0.3) for name in innocents]
        ids = await asyncio.gather(*(send(fleet, "w0", name, one) for name, one in zip(innocents, slow, strict=True)))
        # When one among them kills its worker each time that it runs
        with contextlib.suppress(grpc.aio.AioRpcError):  # it may be killed before it has answered
            await send(fleet, "w0", "poisoned", Operation("to poisoned", 1, kills=True))
        deaths = 0
        while (status := await end_unless_killed(fleet, "w0", "poisoned", "to poisoned-1")) is None:
            deaths += 1
            assert deaths <= 4, "it was started more often than three times"
            await fleet.start("w0")
            await fleet.place(dict.fromkeys(range(shards), "w0"))

        # Then it is given up as what it is
        assert (status.fate, status.error.reason) == (turn_pb2.FATE_DEAD, "WORKER_KILLED")
        assert 3 <= deaths <= 4
        # and nothing else is, or happens twice
        for name, message_id in zip(innocents, ids, strict=True):
            assert (await end(fleet, "w0", name, message_id)).fate == turn_pb2.FATE_DONE
            assert (await applied(fleet, "w0", name)).operations == [(f"to {name}", 1)]
        (letter,) = await letters(fleet, "w0")
        assert (letter.session.session, letter.death.reason) == ("poisoned", "WORKER_KILLED")


async def test_twenty_handovers_in_a_row_lose_and_give_up_nothing(fleets: Fleets) -> None:
    shards, senders, each = 2, 8, 40
    async with fleets.opened(shards, ["w0", "w1"]) as fleet:
        moved = asyncio.Event()

        async def write(sender: str) -> list[tuple[str, str]]:
            """Until the handovers are over, and some."""
            sent: list[tuple[str, str]] = []
            while not moved.is_set() or len(sent) < each:
                name, number = f"to-{sender}", len(sent) + 1
                operation = Operation(sender, number, seconds=(0.0, 0.01, 0.3)[number % 3], fails=number % 10 == 7)
                sent.append((name, await send(fleet, f"w{number % 2}", name, operation)))
                await asyncio.sleep(0.1)
            return sent

        # When both shards go from one worker to the other twenty times while sessions are busy
        async with asyncio.TaskGroup() as tasks:
            writing = [tasks.create_task(write(f"c{sender}")) for sender in range(senders)]
            for round_ in range(20):
                await fleet.hand_over({0: f"w{round_ % 2}", 1: f"w{(round_ + 1) % 2}"})
                await asyncio.sleep(0.2)
            moved.set()

        # Then every message has had its effect, once, and none was given up
        for sender, task in enumerate(writing):
            sent = task.result()
            statuses = await asyncio.gather(*(end(fleet, "w0", name, message_id) for name, message_id in sent))
            assert {status.fate for status in statuses} == {turn_pb2.FATE_DONE}
            found = (await applied(fleet, "w1", f"to-c{sender}")).operations
            assert sorted(found) == [(f"c{sender}", number) for number in range(1, len(sent) + 1)]
        assert await letters(fleet, "w0") == []


async def test_bodies_that_nobody_can_read_are_given_up_and_stop_nobody(fleets: Fleets) -> None:
    async with fleets.opened(1, ["w0"]) as fleet:
        # Given bodies in a mailbox that are no envelopes, one of them larger than any may be
        bodies = [b"", b"\xff no envelope", b"x" * (20 * 1024 * 1024)]
        await asyncio.to_thread(_publish_raw, fleets.broker, bodies)

        # When a message follows them
        message_id = await send(fleet, "w0", "s", Operation("c", 1))

        # Then it takes effect, and they can be looked at
        assert (await end(fleet, "w0", "s", message_id)).fate == turn_pb2.FATE_DONE
        async with asyncio.timeout(20):
            while len(found := await letters(fleet, "w0")) < len(bodies):
                await asyncio.sleep(0.1)
        assert {letter.death.reason for letter in found} == {"UNDECODABLE"}
        assert sorted(letter.size for letter in found) == sorted(map(len, bodies))

        # and they are gone from the mailbox: another process meets none of them
        await fleet.workers["w0"].kill()
        await fleet.start("w0")
        await fleet.place({0: "w0"})
        message_id = await send(fleet, "w0", "s", Operation("c", 2))
        assert (await end(fleet, "w0", "s", message_id)).fate == turn_pb2.FATE_DONE
        assert len(await letters(fleet, "w0")) == len(bodies)


def _publish_raw(url: str, bodies: Sequence[bytes]) -> None:
    """Into the mailbox of shard 0, past everything that would refuse them."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        sending = connection.channel()
        sending.confirm_delivery()
        for body in bodies:
            sending.basic_publish("", mailbox(0), body, pika.BasicProperties(delivery_mode=2), mandatory=True)
    finally:
        connection.close()
