"""Clocks of hosts that jump: what is for later comes when the state store's clock says so, never before, and once. Real
processes."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import redis_server
from support.fleet_processes import fleet_processes
from support.fleets import actor
from support.moved_clock import MovedClock
from support.timed_actor import READ
from support.up import Up

from troupe.chassis.ids import uuid7
from troupe.chassis.rpc_client import channel
from troupe.chassis.wire import duration, timestamp
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import GetMessageRequest, MessageStatus, SendRequest
from troupe.v1.agent_pb2_grpc import AgentServiceStub
from troupe.v1.envelope_pb2 import Content, SessionRef
from troupe.v1.resource_pb2 import ActorSpec

ENTRY = "support.timed_actor:Timed"
MANIFEST = f"""
apiVersion: troupe.dev/v1
kind: Actor
metadata: {{name: timed}}
spec: {{entryPoint: "{ENTRY}"}}
"""
HOUR = 3600.0


@dataclass
class Timetable:
    """Three sessions that wait for the same moment: one for a message, one for a reminder, one for a promise's end."""

    gateway: str
    store: MovedClock
    """The clock by which it is to be judged."""
    due: float = 0.0

    async def set(self) -> None:
        """An hour from now."""
        self.due = self.store.now() + HOUR
        await self._send("later", "message", due=self.due, message_id="m")
        await self._send("ticks", f"remind {self.due}", wait=20)
        await self._send("asks", f"ask {HOUR}", message_id="a")
        assert (await self._status("asks", "a", turn_pb2.FATE_WAITING)).awaits

    async def look(self) -> None:
        """Return once everything that is due in the shard has taken its place: something scheduled after it has run."""
        for number in range(2):
            message_id = f"look {self.store.now()} {number}".replace(" ", "-")
            await self._send("looks", "look", due=self.store.now() + 0.2, message_id=message_id)
            await self._status("looks", message_id, turn_pb2.FATE_DONE)

    async def nothing_came(self) -> bool:
        return (
            await self._came("later") == await self._came("ticks") == []
            and (await self._status("asks", "a", turn_pb2.FATE_WAITING)).fate == turn_pb2.FATE_WAITING
        )

    async def all_came(self) -> None:
        """Wait until they did; each of them once."""
        assert (await self._status("later", "m", turn_pb2.FATE_DONE)).fate == turn_pb2.FATE_DONE
        assert (await self._status("asks", "a", turn_pb2.FATE_DONE)).result.text == "expired"
        async with asyncio.timeout(20):
            while not await self._came("ticks"):
                await asyncio.sleep(0.1)
        await self.are_there_once()

    async def are_there_once(self) -> None:
        assert await self._came("later") == ["message"]
        assert await self._came("ticks") == ["tick"]
        assert (await self._status("asks", "a", turn_pb2.FATE_DONE)).result.text == "expired"

    async def _came(self, session: str) -> list[str]:
        found: list[str] = json.loads((await self._send(session, READ, wait=20)).result.text)
        return found

    async def _send(
        self, session: str, text: str, due: float | None = None, message_id: str = "", wait: float | None = None
    ) -> MessageStatus:
        request = SendRequest(session=_ref(session), content=Content(text=text), message_id=message_id)
        if due is not None:
            request.deliver_at.CopyFrom(timestamp(due))
        if wait is not None:
            request.wait.CopyFrom(duration(wait))
        async with channel(self.gateway) as connection:
            stub: Any = AgentServiceStub(connection)
            return (await stub.Send(request, timeout=30)).status  # type: ignore[no-any-return]

    async def _status(self, session: str, message_id: str, fate: "turn_pb2.Fate.ValueType") -> MessageStatus:
        """Once it is that, or after 20 s."""
        async with channel(self.gateway) as connection, asyncio.timeout(20):
            stub: Any = AgentServiceStub(connection)
            request = GetMessageRequest(session=_ref(session), message_id=message_id)
            while (status := (await stub.GetMessage(request, timeout=30)).status).fate != fate:
                await asyncio.sleep(0.05)
            return status  # type: ignore[no-any-return]


def _ref(session: str) -> SessionRef:
    return SessionRef(agent="timed", session=session)


@pytest.fixture
def clock(tmp_path: Path) -> MovedClock:
    (tmp_path / "clock").mkdir()
    return MovedClock(tmp_path / "clock")


@pytest.fixture
async def up(tmp_path: Path, clock: MovedClock) -> AsyncIterator[Up]:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "fleet.yaml").write_text(MANIFEST)
    environment = {**clock.environment, "PYTHONPATH": os.pathsep.join(sys.path), "TROUPE_SHARDS": "1"}
    fleet = Up(tmp_path, environment, tmp_path / "manifests")
    await fleet.start()
    try:
        yield fleet
    finally:
        await fleet.kill()


async def test_where_sessions_lie_in_a_file_the_clock_of_the_host_says_what_is_due(up: Up, clock: MovedClock) -> None:
    timetable = Timetable(up.gateway, clock)
    await timetable.set()

    for ahead in (-HOUR / 2, HOUR - 30):
        clock.move_to(ahead)
        await timetable.look()
        assert await timetable.nothing_came()

    clock.move_to(HOUR + 30)
    await timetable.look()
    await timetable.all_came()

    clock.move_to(-HOUR)
    await timetable.look()
    await timetable.are_there_once()


async def test_where_sessions_lie_in_redis_its_clock_says_what_is_due_whatever_the_workers_says(
    tmp_path: Path, amqp_url: str, clock: MovedClock
) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "host").mkdir()
    host = MovedClock(tmp_path / "host")
    with redis_server.running(tmp_path / "redis", clock.environment) as server:
        async with fleet_processes(tmp_path, amqp_url, server.url(uuid7()), 1) as fleet:
            await fleet.control_plane()
            worker = await fleet.worker("w0", environment=host.environment)
            await fleet.apply([actor("timed", ActorSpec(entry_point=ENTRY))])
            await fleet.settled("w0")
            timetable = Timetable(worker.address, clock)
            await timetable.set()

            for theirs, redis in ((2 * HOUR, 0), (HOUR / 2, -HOUR / 2)):
                host.move_to(theirs)
                clock.move_to(redis)
                await timetable.look()
                assert await timetable.nothing_came()

            # The worker knows nothing of it, and finds out by its sweep
            host.move_to(-HOUR / 2)
            clock.move_to(HOUR + 30)
            await timetable.all_came()

            host.move_to(2 * HOUR)
            clock.move_to(-HOUR)
            await timetable.look()
            await timetable.are_there_once()
