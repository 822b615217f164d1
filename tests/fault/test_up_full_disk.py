"""`troupe up` on a disk that is full for a while: clients are told, the log says it once, nothing is lost or half
written, and it goes on as soon as there is room, without a restart."""

import asyncio
import sys
from collections.abc import AsyncIterator
from os import pathsep
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.fleet_processes import Process, applied, end, send
from support.recording_actor import STARTS, Operation
from support.small_disk import SmallDisk, small_disk
from support.up import Up
from support.writers import Writers

from troupe.chassis.rpc_client import channel
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import GetSessionRequest
from troupe.v1.agent_pb2_grpc import AgentServiceStub
from troupe.v1.envelope_pb2 import SessionRef

RECORDER = """
apiVersion: troupe.dev/v1
kind: Actor
metadata: {name: recorder}
spec: {entryPoint: "support.recording_actor:Recorder"}
"""


class Patient(Writers):
    """They send a message again, under its id, until it is taken, and remember why it was not."""

    def __init__(self, gateway: Process) -> None:
        super().__init__([gateway], 4)
        self.refusals: dict[str, list[str]] = {name: [] for name in self.sent}

    async def _write(self, name: str, sent: list[str]) -> None:
        while not self._stop.is_set():
            number = len(sent) + 1
            try:
                sent.append(await send(self.gateways[0], name, Operation(name, number), timeout=2.0))
            except grpc.aio.AioRpcError as refused:
                self.refusals[name].append(f"{refused.code().name}: {refused.details()}")
            await asyncio.sleep(0.05)

    async def refused(self) -> None:
        """Wait until each of them was."""
        async with asyncio.timeout(30):
            while not all(self.refusals.values()):
                await asyncio.sleep(0.05)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Process, SmallDisk]]:
    """A fleet with all its files on a disk of 8 MB."""
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "fleet.yaml").write_text(RECORDER)
    environment = {
        STARTS: str(tmp_path / "starts"),
        "PYTHONPATH": pathsep.join(sys.path),
        "TROUPE_LOG_FORMAT": "json",
    }
    fleet = Up(tmp_path, environment, tmp_path / "manifests")
    with small_disk(fleet.data, 8) as disk:
        if disk is None:
            pytest.skip("a small disk cannot be mounted here; what the stores do then is tried with limits on files")
        await fleet.start()
        assert fleet.process is not None
        try:
            yield Process("up", fleet.gateway, fleet.process, fleet.log), disk
        finally:
            await fleet.kill()


async def turns(gateway: Process, session: str) -> int:
    async with channel(gateway.address) as connection:
        stub: Any = AgentServiceStub(connection)
        request = GetSessionRequest(session=SessionRef(agent="recorder", session=session))
        return int((await stub.GetSession(request, timeout=10)).session.turns)


async def test_a_full_disk_is_told_once_and_all_goes_on_with_room(served: tuple[Process, SmallDisk]) -> None:
    fleet, disk = served
    writers = Patient(fleet)
    async with writers.writing():
        await writers.more(3)
        # Given a turn that ends while the disk is full
        long = await send(fleet, "long", Operation("long", 1, seconds=1.0))

        # When the disk is full
        disk.fill()
        await writers.refused()

        # Then each client is told what is full and where, and what there is can still be read
        for said in (refusals[-1] for refusals in writers.refusals.values()):
            assert said.startswith("DEADLINE_EXCEEDED: the broker did not confirm message c")
            assert "broker.db cannot be used (database or disk is full); check the disk of " in said
            assert said.endswith("send it again under this id")
        assert await turns(fleet, "c0") >= 3

        # And when there is room it goes on by itself
        disk.empty()
        await writers.more(3)
    assert fleet.runs
    await writers.check(fleet)
    assert (await end(fleet, "long", long)).fate == turn_pb2.FATE_DONE
    assert (await applied(fleet, "long")).operations == [("long", 1)]
    # And the log has a line for each file that could not be written, not one for each try
    full = [line["error"] for line in fleet.events("store not written")]
    assert len(full) == len(set(full)) <= 3
    assert all("database or disk is full" in error for error in full)
    assert len(fleet.events("cannot persist, trying again")) <= 4
    assert len(fleet.events("works again")) >= 2
