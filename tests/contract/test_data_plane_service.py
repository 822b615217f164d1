"""DataPlaneService of a real worker over gRPC: revisions taken whole or not at all, placements, reports."""

from pathlib import Path
from typing import Any

import pytest
from support.fleets import agent, model, resource, tool
from support.serving_worker import COUNTER, SHARDS, ServingWorker, config, counting_worker, serving_worker

from troupe.chassis.errors import FailedPrecondition, InvalidArgument, TroupeError
from troupe.chassis.rpc_client import translated
from troupe.chassis.wire import duration
from troupe.dataplane.config import RevisionFiles
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import SendRequest
from troupe.v1.data_plane_pb2 import PlaceRequest, ReportRequest, ShardAssignment
from troupe.v1.envelope_pb2 import Content, SessionRef
from troupe.v1.resource_pb2 import ActorSpec, AgentSpec, ConfigSpec, ModelSpec, PythonTool, Resource, ToolSpec
from troupe.v1.status_pb2 import ApplyPhase, ShardState, StatusReport

BROKEN = tool("broken", ToolSpec(python=PythonTool(entry_point="no.such.module:run")))


def phase(attempt: Any) -> str:
    return ApplyPhase.Name(attempt.phase).removeprefix("APPLY_PHASE_")


async def ask(worker: ServingWorker, text: str = "hello") -> str:
    session = SessionRef(agent="counter", session="s")
    request = SendRequest(session=session, content=Content(text=text), wait=duration(5))
    status = (await worker.agents.Send(request)).status
    assert status.fate == turn_pb2.FATE_DONE
    return status.result.text


async def reported(worker: ServingWorker, wanted: str, revision: ConfigSpec) -> StatusReport:
    """The first report in which the revision's attempt came to this."""
    call = worker.data_plane.Report(ReportRequest(), timeout=10)
    async for response in call:
        attempt = response.report.last_attempt
        if phase(attempt) == wanted and attempt.revision_id == revision.revision_id:
            call.cancel()
            return response.report
    raise AssertionError("a report stream does not end")


class TestApply:
    async def test_the_first_revision_is_applied_at_once_and_later_ones_after_a_trial(self, tmp_path: Path) -> None:
        async with serving_worker(tmp_path) as worker:
            first, second = config(1), config(2)
            assert phase(await worker.apply(first)) == "APPLIED"
            await worker.place()
            assert await ask(worker) == "1"
            assert phase(await worker.apply(second)) == "PENDING"
            report = await reported(worker, "APPLIED", second)
            assert report.running.revision_id == second.revision_id
            assert await ask(worker) == "2"

    async def test_the_same_again_gets_the_stored_answer(self, tmp_path: Path) -> None:
        async with counting_worker(tmp_path) as worker:
            second = config(2)
            await worker.apply(second)
            await reported(worker, "APPLIED", second)
            assert phase(await worker.apply(second)) == "APPLIED"

    async def test_what_is_older_is_stale_and_what_clashes_fails(self, tmp_path: Path) -> None:
        async with serving_worker(tmp_path) as worker:
            good = config(5, term=2)
            await worker.apply(good)
            other = config(5, COUNTER, model(), term=2)
            for bad, expected in (
                (config(9, term=1), "REJECTED_STALE"),
                (config(4, term=2), "REJECTED_STALE"),
                (other, "FAILED"),
            ):
                assert phase(await worker.apply(bad)) == expected
            report = await worker.report()
            assert report.running.revision_id == report.last_attempt.revision_id == good.revision_id

    @pytest.mark.parametrize(
        ("resources", "reason", "at_fault"),
        [
            ([COUNTER, BROKEN], "", "Tool/default/broken"),
            ([agent("clerk", AgentSpec(model="none"))], "MISSING_REFERENCE", "Agent/default/clerk"),
            (
                [resource("Actor", "a", ActorSpec(entry_point="no.such:Thing"))],
                "ACTOR_IMPORT_FAILED",
                "Actor/default/a",
            ),
            ([resource("Strategy", "s", ActorSpec())], "UNKNOWN_KIND", ""),
            ([resource("Actor", "a", ModelSpec())], "OTHER_SPEC", ""),
        ],
    )
    async def test_what_cannot_be_prepared_is_rolled_back_with_its_resource(
        self, tmp_path: Path, resources: list[Resource], reason: str, at_fault: str
    ) -> None:
        async with counting_worker(tmp_path) as worker:
            before = (await worker.report()).running
            attempt = await worker.apply(config(2, *resources))
            assert phase(attempt) == "ROLLED_BACK"
            assert attempt.error.reason == reason or not reason
            assert attempt.error.resource == at_fault
            assert (await worker.report()).running == before
            assert await ask(worker) == "1"

    async def test_a_trial_goes_on_when_the_next_revision_is_refused(self, tmp_path: Path) -> None:
        files = RevisionFiles(tmp_path / "worker-0")
        async with counting_worker(tmp_path) as worker:
            second, third = config(2), config(3, BROKEN)
            assert phase(await worker.apply(second)) == "PENDING"
            assert phase(await worker.apply(third)) == "ROLLED_BACK"
            async for response in worker.data_plane.Report(ReportRequest(), timeout=10):
                good, pending = files.read()
                if good is not None and good.revision_id == second.revision_id:
                    assert pending is None
                    assert response.report.last_attempt.revision_id == third.revision_id
                    assert response.report.running.revision_id == second.revision_id
                    break

    async def test_turns_that_cannot_succeed_roll_a_revision_back(self, tmp_path: Path) -> None:
        async with counting_worker(tmp_path, health_window=1.0) as worker:
            first = (await worker.report()).running
            second = config(2)
            assert phase(await worker.apply(second)) == "PENDING"
            for number in range(6):
                session = SessionRef(agent="counter", session=f"s{number}")
                await worker.agents.Send(SendRequest(session=session, content=Content(text="wrong"), wait=duration(5)))
            report = await reported(worker, "ROLLED_BACK", second)
            assert report.last_attempt.error.reason == "TURNS_FAIL"
            assert report.running == first
            assert RevisionFiles(tmp_path / "worker-0").read()[1] is None

    async def test_a_death_on_trial_boots_the_last_known_good(self, tmp_path: Path) -> None:
        async with counting_worker(tmp_path) as worker:
            first = (await worker.report()).running
        second = config(2)
        RevisionFiles(tmp_path / "worker-0").write_pending(second)
        async with serving_worker(tmp_path) as worker:
            report = await worker.report()
            assert phase(report.last_attempt) == "ABANDONED"
            assert report.last_attempt.error.retryable
            assert report.running == first
            assert phase(await worker.apply(second)) == "PENDING", "it may be tried once more"
            await reported(worker, "APPLIED", second)

    async def test_it_boots_what_it_last_ran(self, tmp_path: Path) -> None:
        async with counting_worker(tmp_path) as worker:
            assert await ask(worker) == "1"
        async with serving_worker(tmp_path) as worker:
            await worker.place(version=2, epoch=2)
            assert await ask(worker) == "2"

    @pytest.mark.parametrize("missing", ["revision_id", "generation", "term"])
    async def test_a_revision_without_a_place_in_order_is_refused(self, tmp_path: Path, missing: str) -> None:
        revision = config(1)
        revision.ClearField(missing)  # type: ignore[arg-type]
        async with serving_worker(tmp_path) as worker:
            with pytest.raises(InvalidArgument), translated():
                await worker.apply(revision)


class TestPlace:
    async def test_it_takes_and_gives_back_shards(self, tmp_path: Path) -> None:
        async with counting_worker(tmp_path) as worker:
            held = (await worker.place(version=2)).shards
            assert [(shard.shard, shard.state) for shard in held] == [
                (number, ShardState.SHARD_STATE_ACTIVE) for number in range(SHARDS)
            ]
            assert [shard.shard for shard in (await worker.place(version=3, shards=[1, 3])).shards] == [1, 3]

    async def test_an_older_placement_is_refused(self, tmp_path: Path) -> None:
        async with counting_worker(tmp_path) as worker:
            await worker.place(version=7)
            with pytest.raises(FailedPrecondition) as stale, translated():
                await worker.place(version=6)
            assert stale.value.reason == "PLACEMENT_STALE"
            assert len((await worker.report()).shards) == SHARDS

    @pytest.mark.parametrize(
        "request_",
        [
            PlaceRequest(shard_count=0),
            PlaceRequest(shard_count=65_537),
            PlaceRequest(shard_count=1, shards=[ShardAssignment(shard=1, epoch=1)]),
            PlaceRequest(shard_count=2, shards=[ShardAssignment(shard=1, epoch=1)] * 2),
            PlaceRequest(shard_count=2, shards=[ShardAssignment(shard=1)]),
            PlaceRequest(shard_count=2, shards=[ShardAssignment(shard=1, epoch=2**63)]),
        ],
    )
    async def test_a_placement_that_cannot_be_is_refused(self, tmp_path: Path, request_: PlaceRequest) -> None:
        async with serving_worker(tmp_path) as worker:
            with pytest.raises(TroupeError) as refused, translated():
                await worker.data_plane.Place(request_)
            assert isinstance(refused.value, InvalidArgument)


class TestReport:
    async def test_it_is_whole_at_first_and_says_each_change(self, tmp_path: Path) -> None:
        async with serving_worker(tmp_path) as worker:
            seen = []
            async for response in worker.data_plane.Report(ReportRequest(), timeout=10):
                report = response.report
                seen.append(report)
                if len(seen) == 1:
                    assert not report.HasField("running")
                    await worker.apply(config(1))
                elif report.running.revision_id and not report.shards:
                    await worker.place()
                elif report.shards:
                    break
            assert [report.sequence for report in seen] == list(range(1, len(seen) + 1))
            assert len(seen[-1].shards) == SHARDS
            assert seen[-1].worker_id == "worker-0"
            assert seen[-1].capacity.max_hot_sessions == 10_000
