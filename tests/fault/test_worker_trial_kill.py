"""A worker's process that is killed in the middle of taking a revision: it boots the last known good one, says so, and
is never half on the new one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from support.driven_fleet import DrivenFleet, driven_fleet
from support.fleets import actor
from support.hosting import until
from support.serving_worker import config

from troupe.v1.data_plane_pb2 import ApplyRequest, ReportRequest
from troupe.v1.resource_pb2 import ActorSpec, ConfigSpec
from troupe.v1.status_pb2 import ApplyPhase, RevisionAttempt, StatusReport

RECORDER = actor("recorder", ActorSpec(entry_point="support.recording_actor:Recorder"))
PENDING, ABANDONED, APPLIED = (
    ApplyPhase.APPLY_PHASE_PENDING,
    ApplyPhase.APPLY_PHASE_ABANDONED,
    ApplyPhase.APPLY_PHASE_APPLIED,
)


@asynccontextmanager
async def one_worker(directory: Path, window: float) -> AsyncIterator[DrivenFleet]:
    """It runs a first revision; a later one is on trial for `window` seconds."""
    async with driven_fleet(
        directory,
        broker=f"sqlite:///{directory / 'broker.db'}",
        state=f"sqlite:///{directory / 'state.db'}",
        shards=1,
        resources=[RECORDER],
        health_window=window,
        python_path=directory,
    ) as fleet:
        await fleet.start("w")
        yield fleet


async def report(fleet: DrivenFleet) -> StatusReport:
    async with fleet.data_plane(fleet.workers["w"]) as stub:
        call = stub.Report(ReportRequest(), timeout=10)
        async for response in call:
            call.cancel()
            return response.report  # type: ignore[no-any-return]
    raise AssertionError("a report comes at once")


async def apply(fleet: DrivenFleet, revision: ConfigSpec) -> RevisionAttempt:
    async with fleet.data_plane(fleet.workers["w"]) as stub:
        return (await stub.Apply(ApplyRequest(config=revision), timeout=30)).attempt  # type: ignore[no-any-return]


async def test_one_killed_in_the_window_boots_the_last_known_good_each_time(tmp_path: Path) -> None:
    async with one_worker(tmp_path, window=60.0) as fleet:
        first = (await report(fleet)).running
        second = config(2, RECORDER)
        for _ in range(2):
            # Given a revision on trial
            assert (await apply(fleet, second)).phase == PENDING
            assert (await report(fleet)).running.revision_id == second.revision_id
            # When the process is killed, and another one starts
            await fleet.workers["w"].kill()
            await fleet.start("w", apply=False)
            # Then it runs what was good, and says what became of the trial
            found = await report(fleet)
            assert found.running == first
            attempt = found.last_attempt
            assert (attempt.phase, attempt.revision_id) == (ABANDONED, second.revision_id)
            assert attempt.error.retryable
        # When it is killed once more, with nothing on trial
        await fleet.workers["w"].kill()
        await fleet.start("w", apply=False)
        # Then there is nothing more to say of it
        found = await report(fleet)
        assert (found.running, found.last_attempt.phase) == (first, APPLIED)


async def test_one_killed_while_it_prepares_has_not_tried_it(tmp_path: Path) -> None:
    began = tmp_path / "began"
    slow = f"import pathlib, time\npathlib.Path({str(began)!r}).touch()\ntime.sleep(60)\n"
    (tmp_path / "slow_to_import.py").write_text(slow)
    async with one_worker(tmp_path, window=0.0) as fleet:
        first = (await report(fleet)).running
        second = config(2, actor("recorder", ActorSpec(entry_point="slow_to_import:Recorder")))
        applying = asyncio.create_task(apply(fleet, second))
        await until(began.exists)
        assert (await report(fleet)).running == first, "it serves while it prepares"
        await fleet.workers["w"].kill()
        with pytest.raises(grpc.aio.AioRpcError):
            await applying
        await fleet.start("w", apply=False)
        found = await report(fleet)
        assert (found.running, found.last_attempt.phase) == (first, APPLIED)


async def test_one_that_is_stopped_in_the_window_has_not_tried_it(tmp_path: Path) -> None:
    async with one_worker(tmp_path, window=60.0) as fleet:
        first = (await report(fleet)).running
        second = config(2, RECORDER)
        assert (await apply(fleet, second)).phase == PENDING
        assert await fleet.workers["w"].stop() == 0
        await fleet.start("w", apply=False)
        found = await report(fleet)
        assert (found.running, found.last_attempt.phase) == (first, APPLIED)
