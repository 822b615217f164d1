"""`troupe apply --wait`, `rollback` and `drain` at a control plane that really rolls out to workers that do as told."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Never

import pytest
from support.command_line import Typed, troupe, typing
from support.fake_workers import FakeWorker, Take, apply, attempt_at, hang

from troupe.chassis import rpc_client
from troupe.chassis.background import background
from troupe.controlplane.process import running
from troupe.controlplane.settings import ControlPlaneSettings
from troupe.v1.control_plane_pb2_grpc import ControlPlaneServiceStub
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.status_pb2 import ApplyPhase, RevisionAttempt
from troupe.v1.turn_pb2 import ErrorDetail

MODEL = """\
apiVersion: troupe.dev/v1
kind: Model
metadata: {{name: default}}
spec: {{model: {0}}}
"""


class Fleet:
    """A control plane, workers, and a person who types commands in a directory of their own."""

    def __init__(self, directory: Path, server: str, stack: AsyncExitStack) -> None:
        self.directory, self.server, self._stack = directory, server, stack

    async def worker(self, name: str, take: Take = apply) -> FakeWorker:
        """A worker that serves and has registered."""
        worker = await self._stack.enter_async_context(FakeWorker(name, take=take).serving())
        async with rpc_client.channel(self.server) as channel:
            await ControlPlaneServiceStub(channel).Register(worker.registration())
        return worker

    async def workers(self, *names: str) -> list[FakeWorker]:
        return [await self.worker(name) for name in names]

    def manifest(self, model: str) -> str:
        path = self.directory / f"{model}.yaml"
        path.write_text(MODEL.format(model))
        return str(path)

    async def troupe(self, *arguments: str) -> Typed:
        return await troupe(self.server, self.directory, *arguments)

    def typing(self, *arguments: str) -> Any:
        return typing(self.server, self.directory, *arguments)

    async def apply(self, model: str, *options: str) -> Typed:
        return await self.troupe("apply", "-f", self.manifest(model), *options, "--wait")


@asynccontextmanager
async def control_plane(directory: Path, port: int = 0, **settings: Any) -> AsyncIterator[str]:
    data = directory / "control"
    chosen = ControlPlaneSettings(listen=f"127.0.0.1:{port}", data=data, metrics_listen="", **settings)
    async with running(chosen) as serving:
        yield serving.address


@asynccontextmanager
async def registered(server: str, worker: FakeWorker) -> AsyncIterator[None]:
    """The worker renews its lease until the block is left."""

    async def renew(stub: Any) -> Never:
        while True:
            await stub.Register(worker.registration())
            await asyncio.sleep(0.3)

    async with rpc_client.channel(server) as channel, background() as group:
        group.create_task(renew(ControlPlaneServiceStub(channel)))
        yield


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(control_plane(tmp_path))
        yield Fleet(tmp_path, server, stack)


def refusing(model: str) -> Take:
    """Takes every revision but those with that model."""

    async def take(config: ConfigSpec) -> RevisionAttempt:
        if any(model in str(resource.spec) for resource in config.resources):
            error = ErrorDetail(reason="BROKEN", message=f"no model {model}", resource="Model/default/default")
            return attempt_at(config, ApplyPhase.APPLY_PHASE_ROLLED_BACK, error)
        return attempt_at(config)

    return take


class Gate:
    """In front of workers: what they are brought from one generation on waits until it is let through."""

    def __init__(self, first: int = 1) -> None:
        self._open = first - 1
        self._moved = asyncio.Condition()

    def before(self, take: Take = apply) -> Take:
        async def taken(config: ConfigSpec) -> RevisionAttempt:
            async with self._moved:
                await self._moved.wait_for(lambda: config.generation <= self._open)
            return await take(config)

        return taken

    async def let_through(self, generation: int) -> None:
        async with self._moved:
            self._open = generation
            self._moved.notify_all()


async def test_a_rollout_is_told_stage_by_stage_and_worker_by_worker(fleet: Fleet) -> None:
    gates = {name: Gate() for name in ("a", "b", "c")}
    for name, gate in gates.items():
        await fleet.worker(name, gate.before())
    one = fleet.manifest("one")
    async with fleet.typing("apply", "-f", one, "--canary", "1", "--max-unavailable", "1", "--wait") as run:
        for name, gate in gates.items():
            await run.until(f"{name}: SENT")
            await gate.let_through(1)
        assert (await run.ended(), run.err) == (0, "")
    assert run.lines[0] == "+ Model/default/default"
    assert run.lines[2:] == [
        "CANARY: a goes first",
        "a: SENT",
        "a: APPLIED",
        "ROLLING: to all workers, 1 at once",
        "b: SENT",
        "b: APPLIED",
        "c: SENT",
        "c: APPLIED",
        "COMPLETE: 3 applied",
    ]


async def test_a_bad_revision_is_waited_for_until_the_old_content_is_back(fleet: Fleet) -> None:
    gate = Gate(2)
    workers = [await fleet.worker(name, gate.before(refusing("two"))) for name in ("a", "b")]
    assert await (await fleet.apply("one")).ended() == 0
    async with fleet.typing("apply", "-f", fleet.manifest("two"), "--wait") as run:
        await run.until("a: SENT")
        await gate.let_through(2)
        await run.until("revision 3: a: SENT")
        await gate.let_through(3)
        assert await run.ended() == 1
    assert run.lines[3:9] == [
        "CANARY: a goes first",
        "a: SENT",
        "a: ROLLED_BACK: Model/default/default: no model two",
        "ROLLING_BACK: a canary failed: a (Model/default/default: no model two); "
        "revision 3 brings back what revision 1 was",
        "revision 3: ROLLING: to all workers, 25% at once",
        "revision 3: a: SENT",
    ]
    assert run.lines[-1] == "revision 3: COMPLETE: 2 applied"
    assert run.err == (
        "error: revision 2 is ROLLED_BACK: a canary failed: a (Model/default/default: no model two); revision 3 brings "
        "back what revision 1 was; revision 3 brought the old content back; correct it and apply it again\n"
    )
    assert [one.asked[-1].generation for one in workers] == [3, 3]


async def test_without_anything_to_go_back_to_it_halts(fleet: Fleet) -> None:
    await fleet.worker("a", refusing("one"))
    run = await fleet.apply("one")
    assert await run.ended() == 1
    assert run.err.startswith("error: revision 1 is HALTED: a canary failed: a (")
    assert "correct it and apply it again" in run.err


async def test_it_halts_where_that_was_asked_for(fleet: Fleet) -> None:
    await fleet.worker("a", refusing("two"))
    await fleet.apply("one")
    run = await fleet.apply("two", "--on-failure", "halt")
    assert await run.ended() == 1
    assert run.err.startswith("error: revision 2 is HALTED: ")
    shown = await fleet.troupe("get", "revisions")
    assert [line.split()[:2] for line in shown.lines[1:]] == [["2", "HALTED"], ["1", "COMPLETE"]]


async def test_failures_within_what_may_fail_are_named_and_it_is_done(fleet: Fleet) -> None:
    await fleet.workers("a", "b")
    await fleet.worker("c", refusing("one"))
    run = await fleet.apply("one", "--canary", "0", "--max-failures", "1", "--max-unavailable", "100%")
    assert await run.ended() == 0
    assert run.lines[-1] == "COMPLETE: 2 applied, 1 failed"
    assert run.err.startswith("c: ROLLED_BACK: Model/default/default: no model one; it runs on without revision 1")


async def test_a_newer_revision_ends_the_waiting(fleet: Fleet) -> None:
    worker = await fleet.worker("a", hang)
    async with fleet.typing("apply", "-f", fleet.manifest("one"), "--wait") as waiting:
        await waiting.until("CANARY: a goes first")
        await fleet.troupe("apply", "-f", fleet.manifest("two"))
        assert await waiting.ended() == 1
    assert "error: revision 1 is SUPERSEDED: revision 2 came before" in waiting.err
    assert len(worker.asked) == 1


async def test_ctrl_c_leaves_the_rollout_to_itself(fleet: Fleet) -> None:
    gate = Gate()
    worker = await fleet.worker("a", gate.before())
    async with fleet.typing("apply", "-f", fleet.manifest("one"), "--wait") as waiting:
        await waiting.until("CANARY: a goes first")
        waiting.interrupt()
        assert await waiting.ended() == 130
    assert waiting.err == "the rollout of revision 1 goes on without you; see `troupe status`\n"
    await gate.let_through(1)
    await worker.until(lambda one: one.runs(one.asked[0].revision_id))


async def test_its_time_is_over_and_it_says_who_is_missing(fleet: Fleet) -> None:
    await fleet.worker("a", hang)
    run = await fleet.apply("one", "--timeout", "2s")
    assert await run.ended() == 1
    assert run.err == ("error: revision 1 is CANARY after 2 s (a: SENT); the rollout goes on; see `troupe status`\n")


async def test_for_programs_the_revision_is_named_though_its_time_is_over(fleet: Fleet) -> None:
    run = await fleet.apply("one", "--timeout", "500ms", "-o", "json")
    assert await run.ended() == 1
    assert json.loads(run.out)["revision"]["rollout"]["stage"] == "ROLLOUT_STAGE_PENDING"
    assert run.err.startswith("error: revision 1 is PENDING after 0.5 s")


async def test_nobody_is_there(fleet: Fleet) -> None:
    run = await fleet.apply("one", "--timeout", "500ms")
    assert "revision 1 is PENDING after 0.5 s (no worker is there)" in run.err


async def test_the_control_plane_is_away_for_a_while(tmp_path: Path) -> None:
    """Given a rollout that is followed, when the control plane ends and another one begins on what it stored, then it
    is followed to its end."""
    gate = Gate()
    async with AsyncExitStack() as stack:
        async with control_plane(tmp_path) as server:
            fleet = Fleet(tmp_path, server, stack)
            worker = await fleet.worker("a", gate.before())
            waiting = await stack.enter_async_context(
                fleet.typing("apply", "-f", fleet.manifest("one"), "--wait", "--timeout", "40s")
            )
            await waiting.until("a: SENT")
        await waiting.until("the control plane does not answer; still waiting")
        async with control_plane(tmp_path, int(server.rpartition(":")[2])):
            await waiting.until("the control plane answers again")
            await gate.let_through(1)
            assert await waiting.ended(30) == 0
    assert waiting.lines[-1] == "COMPLETE: 1 applied"
    assert worker.runs(worker.asked[0].revision_id)


async def test_for_programs_there_is_one_document_however_it_ends(fleet: Fleet) -> None:
    await fleet.worker("a", refusing("two"))
    fine = await fleet.apply("one", "-o", "json")
    bad = await fleet.apply("two", "-o", "json", "--on-failure", "halt")
    assert (await fine.ended(), await bad.ended()) == (0, 1)
    document = json.loads(fine.out)
    assert document["revision"]["rollout"]["stage"] == "ROLLOUT_STAGE_COMPLETE"
    assert document["workers"] == [{"workerId": "a", "phase": "APPLIED", "reason": ""}]
    document = json.loads(bad.out)
    assert document["revision"]["rollout"]["stage"] == "ROLLOUT_STAGE_HALTED"
    assert document["workers"] == [
        {"workerId": "a", "phase": "ROLLED_BACK", "reason": "Model/default/default: no model two"}
    ]
    assert document["revision"]["rollout"]["policy"]["onFailure"] == "FAILURE_POLICY_HALT"


async def test_rollback_brings_back_what_was_complete_before(fleet: Fleet) -> None:
    await fleet.workers("a")
    await fleet.apply("one")
    await fleet.apply("two")
    run = await fleet.troupe("rollback", "--wait")
    assert (await run.ended(), run.err) == (0, "")
    assert run.lines[:2] == ["~ Model/default/default", '    spec.model: "two" -> "one"']
    assert run.lines[2].startswith("revision 3 (the content of revision 1) ")
    assert run.lines[-2:] == ["a: APPLIED", "COMPLETE: 1 applied"]
    shown = await fleet.troupe("get", "revisions")
    assert [line.split()[:2] for line in shown.lines[1:]] == [
        ["3", "COMPLETE"],
        ["2", "ROLLED_BACK"],
        ["1", "COMPLETE"],
    ]
    assert [line.split("   ")[-1] for line in shown.lines[1:3]] == ["current, way back from 2", "rolled back by 3"]


async def test_rollback_goes_to_the_revision_that_is_named(fleet: Fleet) -> None:
    await fleet.workers("a")
    for model in ("one", "two", "three"):
        await fleet.apply(model)
    run = await fleet.troupe("rollback", "1", "--wait", "-o", "json")
    assert await run.ended() == 0
    document = json.loads(run.out)
    assert document["changes"][0]["fields"] == [{"path": "spec.model", "old": "three", "new": "one"}]
    assert document["revision"]["rollout"]["stage"] == "ROLLOUT_STAGE_COMPLETE"


async def test_rollback_without_anything_to_go_back_to_fails(fleet: Fleet) -> None:
    before_any = await fleet.troupe("rollback")
    await fleet.workers("a")
    await fleet.apply("one")
    to_none = await fleet.troupe("rollback")
    to_unknown = await fleet.troupe("rollback", "7")
    assert [await one.ended() for one in (before_any, to_none, to_unknown)] == [1, 1, 1]
    assert "nothing was ever applied" in before_any.err
    assert "apply what you want instead" in to_none.err
    assert to_unknown.err == ("error: there is no revision 7; `troupe get revisions` lists those that are kept\n")


async def test_a_standby_is_asked_and_the_leader_does_it(tmp_path: Path) -> None:
    """Given two control planes on one store, when a command names the one that stands by, then it is done all the
    same; and what is followed there is followed to its end."""
    async with (
        control_plane(tmp_path) as leader,
        control_plane(tmp_path) as standby,
        FakeWorker("a").serving() as worker,
        rpc_client.channel(leader) as channel,
    ):
        await ControlPlaneServiceStub(channel).Register(worker.registration())
        async with AsyncExitStack() as stack:
            fleet = Fleet(tmp_path, standby, stack)
            applied = await fleet.apply("one")
            assert (await applied.ended(), applied.err, applied.lines[-1]) == (0, "", "COMPLETE: 1 applied")
            await fleet.apply("two")
            back = await fleet.troupe("rollback", "--wait")
            assert (await back.ended(), back.err, back.lines[-1]) == (0, "", "COMPLETE: 1 applied")
            drained = await fleet.troupe("drain", "a")
            assert (await drained.ended(), drained.err) == (0, "")


async def test_a_drained_worker_is_waited_for_until_it_is_gone(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(control_plane(tmp_path, lease=1.0, renew_after=0.3))
        fleet = Fleet(tmp_path, server, stack)
        await fleet.worker("a")
        process = await stack.enter_async_context(AsyncExitStack())
        leaving = await process.enter_async_context(FakeWorker("b").serving())
        await process.enter_async_context(registered(server, leaving))
        await leaving.until(lambda one: bool(one.shards()))
        async with fleet.typing("drain", "b", "--wait") as waiting:
            await waiting.until("b: DRAINING: it hands its shards over, ends its turns and exits")
            await leaving.until(lambda one: not one.shards())
            listed = await fleet.troupe("get", "workers", "b", "-o", "json")
            assert json.loads(listed.out)["report"]["instanceId"] == "b-first"
            assert waiting.process.returncode is None, "it is still there"
            await process.aclose()
            assert await waiting.ended() == 0
        assert waiting.lines[-1] == "b: gone"
        assert waiting.err == ""


async def test_a_worker_that_is_not_there_cannot_be_drained(fleet: Fleet) -> None:
    run = await fleet.troupe("drain", "nobody")
    assert await run.ended() == 1
    assert run.err == "error: no worker nobody is alive; list the workers that are\n"


async def test_workers_are_listed_with_process_weight_and_what_they_are_to_run(fleet: Fleet) -> None:
    await fleet.workers("a")
    await fleet.apply("one")
    run = await fleet.troupe("get", "workers")
    header, row = run.lines
    assert header.split()[:7] == ["WORKER", "ADDRESS", "INSTANCE", "WEIGHT", "HEALTH", "RUNS", "WANTED"]
    found = row.split()
    assert [found[0], *found[2:7]] == ["a", "a-first", "1", "HEALTHY", "1", "1"]


async def test_one_revision_is_shown_with_its_workers(fleet: Fleet) -> None:
    await fleet.worker("a", refusing("one"))
    await fleet.apply("one")
    run = await fleet.troupe("get", "revisions", "1")
    assert "a canary failed: a (Model/default/default: no model one)" in run.out
    assert run.lines[-1].split() == ["a", "ROLLED_BACK,", "canary", "Model/default/default:", "no", "model", "one"]


async def test_status_tells_of_the_rollout(fleet: Fleet) -> None:
    await fleet.worker("a", hang)
    async with fleet.typing("apply", "-f", fleet.manifest("one"), "--wait") as waiting:
        await waiting.until("CANARY: a goes first")
        run = await fleet.troupe("status")
    assert run.lines[0] == "revision 1 CANARY · 1 under way · 1 resource · 1 of 1 workers healthy"
