"""What happens around an Apply on a real worker: turns, shards, calls that are given up, disks that are full."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY
from support import scripted_actor
from support.fleets import actor
from support.serving_worker import COUNTER, SHARDS, ServingWorker, config, counting_worker, serving_worker

from troupe.chassis.wire import duration
from troupe.dataplane import watchdog
from troupe.dataplane.actors.host import Host
from troupe.dataplane.config import RevisionFiles
from troupe.dataplane.watchdog import LATE
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import GetMessageRequest, MessageStatus, SendRequest
from troupe.v1.data_plane_pb2 import ApplyRequest, ReportRequest
from troupe.v1.envelope_pb2 import Content, SessionRef
from troupe.v1.resource_pb2 import ActorSpec
from troupe.v1.status_pb2 import ApplyPhase, HealthState, ShardState, StatusReport

NEWER = actor("counter", ActorSpec(entry_point="support.scripted_actor:Newer"))
OTHER = actor("other", ActorSpec(entry_point="support.scripted_actor:Counter"))


async def send(worker: ServingWorker, session: str, text: str) -> str:
    request = SendRequest(session=SessionRef(agent="counter", session=session), content=Content(text=text))
    return (await worker.agents.Send(request)).message_id


async def end(worker: ServingWorker, session: str, message_id: str, within: float = 10.0) -> MessageStatus:
    ref = SessionRef(agent="counter", session=session)
    request = GetMessageRequest(session=ref, message_id=message_id, wait=duration(within))
    return (await worker.agents.GetMessage(request, timeout=within + 5)).status


async def reported(worker: ServingWorker, wanted: "ApplyPhase.ValueType", revision_id: str) -> StatusReport:
    """The first report that says so of this revision."""
    call = worker.data_plane.Report(ReportRequest(), timeout=15)
    async for response in call:
        attempt = response.report.last_attempt
        if (attempt.phase, attempt.revision_id) == (wanted, revision_id):
            call.cancel()
            return response.report
    raise AssertionError("a report stream does not end")


async def test_a_turn_in_flight_ends_on_the_revision_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripted_actor, "OPEN", asyncio.Event())
    async with counting_worker(tmp_path) as worker:
        # Given a turn that runs
        running = await send(worker, "s", "wait")
        while (await worker.report()).load.running_turns != 1:  # noqa: ASYNC110 - another side of a socket tells
            await asyncio.sleep(0.01)
        # When a revision comes in which its actor is another one
        revision = config(2, NEWER)
        await worker.apply(revision)
        await reported(worker, ApplyPhase.APPLY_PHASE_APPLIED, revision.revision_id)
        assert (await end(worker, "t", await send(worker, "t", "hello"))).result.text == "newer"
        # Then the turn ends as it began, and the next one of its session is of the new revision
        scripted_actor.OPEN.set()
        assert (await end(worker, "s", running)).result.text == "1"
        assert (await end(worker, "s", await send(worker, "s", "hello"))).result.text == "newer"


async def test_a_worker_without_a_revision_subscribes_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "LATE", LATE)
    hold, blocks = Host.hold, [0.7]

    async def blocking(*given: Any) -> None:
        await hold(*given)
        if given[1] and blocks:
            time.sleep(blocks.pop())  # noqa: ASYNC251 - this is what blocks it

    async with serving_worker(tmp_path) as worker:
        # Given shards and no revision, and a loop that was blocked before
        assert not (await worker.place()).shards
        while (await worker.report()).health.state != HealthState.HEALTH_STATE_DEGRADED:
            time.sleep(0.7)  # noqa: ASYNC251 - this is what blocks it
            await asyncio.sleep(0.3)
        # When the loop is blocked again as the first revision begins
        monkeypatch.setattr(Host, "hold", blocking)
        first = config(1)
        attempt = await worker.apply(first)
        assert (attempt.phase, attempt.error.reason) == (ApplyPhase.APPLY_PHASE_ROLLED_BACK, "LOOP_BLOCKED")
        # Then it holds nothing again, though it had subscribed for the trial
        async for response in worker.data_plane.Report(ReportRequest(), timeout=10):
            assert not response.report.HasField("running")
            if not response.report.shards:
                break
        # And when the same is brought again and the loop is well, it holds what is placed there: what was is forgiven
        assert (await worker.apply(first)).phase == ApplyPhase.APPLY_PHASE_APPLIED
        report = await worker.report()
        assert [shard.state for shard in report.shards] == [ShardState.SHARD_STATE_ACTIVE] * SHARDS


async def test_an_apply_whose_caller_has_gone_is_taken_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = "import time\ntime.sleep(0.5)\nfrom support.scripted_actor import Counter\n"
    (tmp_path / "slow_to_import.py").write_text(slow)
    monkeypatch.syspath_prepend(tmp_path)
    async with counting_worker(tmp_path) as worker:
        revision = config(2, actor("counter", ActorSpec(entry_point="slow_to_import:Counter")))
        with pytest.raises(grpc.aio.AioRpcError):
            await worker.data_plane.Apply(ApplyRequest(config=revision), timeout=0.1)
        report = await reported(worker, ApplyPhase.APPLY_PHASE_APPLIED, revision.revision_id)
        assert report.running.revision_id == revision.revision_id


async def test_a_revision_that_cannot_be_written_down_leaves_the_trial_before_it_alone(tmp_path: Path) -> None:
    files = RevisionFiles(tmp_path / "worker-0")
    async with counting_worker(tmp_path, health_window=0.5) as worker:
        second, third = config(2), config(3)
        assert (await worker.apply(second)).phase == ApplyPhase.APPLY_PHASE_PENDING
        # Given a disk that takes nothing while the second is on trial
        blocker = tmp_path / "worker-0" / f"revision.{os.getpid()}"
        blocker.mkdir()
        # When a third one comes
        attempt = await worker.apply(third)
        assert (attempt.phase, attempt.error.reason) == (ApplyPhase.APPLY_PHASE_ROLLED_BACK, "CANNOT_PERSIST")
        # Then the second comes to its end
        async with asyncio.timeout(10):
            while (good := files.read()[0]) is None or good.revision_id != second.revision_id:  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.02)
        assert (await worker.report()).running.revision_id == second.revision_id
        # and the third may be tried again
        blocker.rmdir()
        assert (await worker.apply(third)).phase == ApplyPhase.APPLY_PHASE_PENDING
        await reported(worker, ApplyPhase.APPLY_PHASE_APPLIED, third.revision_id)


def test_what_is_promoted_is_what_was_on_trial(tmp_path: Path) -> None:
    files, second, third = RevisionFiles(tmp_path), config(2), config(3)
    files.write_pending(second)
    files.write_pending(third)  # and the disk failed before this one began
    files.promote(second)
    assert files.read() == (second, None)


async def test_two_revisions_of_one_place_raise_an_alarm(tmp_path: Path) -> None:
    def clashes() -> float:
        return REGISTRY.get_sample_value("troupe_revision_clashes_total") or 0.0

    before = clashes()
    async with counting_worker(tmp_path) as worker:
        attempt = await worker.apply(config(1, OTHER))
        assert (attempt.phase, attempt.error.reason) == (ApplyPhase.APPLY_PHASE_FAILED, "REVISION_CLASH")
        assert not attempt.error.retryable
    assert clashes() == before + 1


async def test_a_message_waits_for_a_target_that_comes_back_in_time(tmp_path: Path) -> None:
    async with counting_worker(tmp_path, order_timeout=20.0) as worker:
        # Given a revision without the message's target
        without = config(2, OTHER)
        await worker.apply(without)
        await reported(worker, ApplyPhase.APPLY_PHASE_APPLIED, without.revision_id)
        message_id = await send(worker, "s", "hello")
        async with asyncio.timeout(10):
            while (await end(worker, "s", message_id, within=0.1)).fate != turn_pb2.FATE_WAITING:
                pass
        # When one brings it back
        await worker.apply(config(3, COUNTER, OTHER))
        # Then it runs
        status = await end(worker, "s", message_id)
        assert (status.fate, status.result.text) == (turn_pb2.FATE_DONE, "1")


async def test_a_message_for_a_target_that_was_removed_is_given_up(tmp_path: Path) -> None:
    async with counting_worker(tmp_path, order_timeout=0.3) as worker:
        await worker.apply(config(2, OTHER))
        status = await end(worker, "s", await send(worker, "s", "hello"))
        assert (status.fate, status.error.reason) == (turn_pb2.FATE_DEAD, "UNKNOWN_TARGET")
