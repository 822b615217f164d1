"""Revisions on their way to workers, over a store and processes in this process, at the pace of a clock."""

import asyncio
import copy
from collections.abc import Sequence

import pytest
from support.fake_fleet import FakeFleet, Process, settled
from support.fake_workers import Take, apply, attempt_at, hang
from support.fleets import fleet

from troupe.chassis.errors import Aborted, Unavailable
from troupe.chassis.ids import uuid7
from troupe.controlplane.stores.memory import MemoryRevisionStore
from troupe.controlplane.stores.port import Deposed
from troupe.v1.control_plane_pb2 import SyncRequest
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.rollout_pb2 import FailurePolicy, Rollout, RolloutPolicy, WorkerShare
from troupe.v1.status_pb2 import ApplyPhase, RevisionAttempt, RunningRevision
from troupe.v1.turn_pb2 import ErrorDetail

NAMES = ("a", "b", "c", "d", "e")


async def refuse_bad(config: ConfigSpec) -> RevisionAttempt:
    """Take what does not say `bad` anywhere."""
    if not any(b"bad" in resource.spec.value for resource in config.resources):
        return attempt_at(config)
    error = ErrorDetail(code=9, reason="BROKEN", message="no such module", resource="Agent/default/clerk")
    return attempt_at(config, ApplyPhase.APPLY_PHASE_ROLLED_BACK, error)


async def joined(run: FakeFleet, take: Take = apply, names: Sequence[str] = NAMES) -> list[Process]:
    return [await run.join(name, take) for name in names]


def generations(processes: Sequence[Process]) -> list[int]:
    return [process.generation for process in processes]


async def test_a_canary_takes_it_first_then_a_few_at_a_time() -> None:
    let = asyncio.Event()
    under_way: set[str] = set()
    most = 0

    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:

        async def slowly(config: ConfigSpec) -> RevisionAttempt:
            await let.wait()
            return attempt_at(config)

        processes = await joined(run, slowly, [f"w{number}" for number in range(8)])
        await run.sync(fleet())
        await run.until(lambda: any(process.asked for process in processes))
        await run.pass_time(5.0)
        assert sum(bool(process.asked) for process in processes) == 1, "the canary, and nobody else before it has it"
        assert await run.stages() == ["CANARY"]

        async def counted(config: ConfigSpec) -> RevisionAttempt:
            nonlocal most
            under_way.add(config.revision_id + str(len(under_way)))
            most = max(most, len(under_way))
            await run.clock.sleep(1.0)
            under_way.pop()
            return attempt_at(config)

        for process in processes:
            process.take = counted
        let.set()
        await run.until_stages("COMPLETE")
        assert generations(processes) == [1] * 8
        assert most == 2, "25 % of eight"


async def test_each_place_is_stored_before_the_worker_is_offered_anything() -> None:
    store = MemoryRevisionStore(8)
    async with FakeFleet(store).reigning() as run:

        async def check(config: ConfigSpec) -> RevisionAttempt:
            (about, *_) = await store.revisions(1)
            asked = [name for name in NAMES if run.processes[f"{name}-1:70"].asked]
            placed = [outcome.worker_id for outcome in about.rollout.workers if outcome.HasField("offered_at")]
            assert set(asked) <= set(placed)
            return attempt_at(config)

        await joined(run, check)
        await run.sync(fleet())
        await run.until_stages("COMPLETE")


async def test_a_bad_revision_halts_and_is_rolled_back_by_itself_and_says_why() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        processes = await joined(run, refuse_bad)
        await run.sync(fleet())
        await run.until_stages("COMPLETE")
        bad = await run.sync(fleet(prompt="bad"))
        await run.until_stages("COMPLETE", "ROLLED_BACK", "COMPLETE")
        assert generations(processes) == [3] * 5
        rollouts = await run.rollouts()
        assert "a canary failed: a (Agent/default/clerk: no such module)" in rollouts[2].reason
        assert rollouts[3].rollback_of_revision_id == bad.revision_id
        assert sum(2 in process.asked for process in processes) == 1, "the canary alone"
        (about, *_) = await run.store.revisions(1)
        first = await run.store.revision((await run.store.revisions(3))[-1].revision_id)
        assert first is not None
        assert about.content_hash == first[1].content_hash


async def test_a_leader_that_takes_over_brings_nobody_what_it_runs() -> None:
    run = FakeFleet(MemoryRevisionStore(8))
    async with run.reigning():
        processes = await joined(run)
        await run.sync(fleet())
        await run.until_stages("COMPLETE")
    async with run.reigning():
        await run.pass_time(10.0)
        assert [process.asked for process in processes] == [[1]] * 5


async def test_a_users_fix_in_the_middle_of_a_rollback_is_what_stays() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        processes = await joined(run, refuse_bad)
        await run.sync(fleet())
        await run.until_stages("COMPLETE")
        held = asyncio.Event()

        async def hold_the_way_back(config: ConfigSpec) -> RevisionAttempt:
            if config.generation == 3:
                await held.wait()
            return await refuse_bad(config)

        for process in processes:
            process.take = hold_the_way_back
        await run.sync(fleet(prompt="bad"))
        await run.until_stages("COMPLETE", "ROLLING_BACK", "ROLLING")
        await run.sync(fleet(prompt="A fix."))
        held.set()
        await run.until_stages("COMPLETE", "SUPERSEDED", "SUPERSEDED", "COMPLETE")
        assert generations(processes) == [4] * 5


async def test_a_policy_of_halting_leaves_it_to_people() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        processes = await joined(run, refuse_bad)
        await run.sync(fleet())
        await run.until_stages("COMPLETE")
        await run.sync(fleet(prompt="bad"), RolloutPolicy(on_failure=FailurePolicy.FAILURE_POLICY_HALT))
        await run.until_stages("COMPLETE", "HALTED")
        await run.pass_time(30.0)
        assert await run.stages() == ["COMPLETE", "HALTED"]
        back = await run.roll_back()
        await run.until_stages("COMPLETE", "ROLLED_BACK", "COMPLETE")
        assert back.generation == 3
        assert 2 not in generations(processes)


async def test_a_worker_that_hangs_and_one_that_rejects_delay_nobody() -> None:
    at_once = RolloutPolicy(canary=WorkerShare(workers=0), max_unavailable=WorkerShare(workers=2), max_failures=2)
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        processes = await joined(run, refuse_bad)
        processes[0].take = hang

        async def reject(config: ConfigSpec) -> RevisionAttempt:
            error = ErrorDetail(code=9, reason="BROKEN", message="not here")
            return attempt_at(config, ApplyPhase.APPLY_PHASE_ROLLED_BACK, error)

        processes[1].take = reject
        await run.sync(fleet(), at_once)
        await run.until(lambda: generations(processes[2:]) == [1, 1, 1], seconds=2.0)
        assert await run.stages() == ["ROLLING"], "one is still in the middle of it"
        await run.until_stages("COMPLETE", seconds=700.0)
        outcomes = {outcome.worker_id: outcome for outcome in (await run.rollouts())[1].workers}
        assert (outcomes["b"].failed, outcomes["b"].error.message) == (True, "not here")


@pytest.mark.parametrize("writes", range(1, 14))
async def test_a_leader_that_stops_anywhere_is_followed_by_one_that_comes_to_the_same_end(writes: int) -> None:
    """It stops after so many of its writes: after each commit, each place given and each outcome stored."""

    class Counted(MemoryRevisionStore):
        left = 1_000

        async def commit(
            self, config: ConfigSpec, created_at: float, after: object, rollouts: Sequence[Rollout]
        ) -> None:
            self.spend()
            await super().commit(config, created_at, after, rollouts)  # type: ignore[arg-type]

        async def save_rollouts(self, rollouts: Sequence[tuple[str, Rollout]], term: int) -> None:
            self.spend()
            await super().save_rollouts(rollouts, term)

        def spend(self) -> None:
            if self.left == 0:
                raise Deposed("NOT_LEADER", "killed here")
            self.left -= 1

    store = Counted(8)
    run = FakeFleet(store)
    async with run.reigning():
        processes = await joined(run, refuse_bad, NAMES[:3])
        await run.sync(fleet())
        await run.until_stages("COMPLETE")
    stopped = False
    try:
        async with run.reigning():
            store.left = writes
            await run.sync(fleet(prompt="bad"))
            await run.pass_time(60.0)
    except Deposed:
        stopped = True
    store.left = 1_000
    async with run.reigning():
        if len(await run.stages()) == 1:
            await run.sync(fleet(prompt="bad"))
        await run.until_stages("COMPLETE", "ROLLED_BACK", "COMPLETE")
        await run.until(lambda: 2 not in generations(processes))
    assert stopped or writes > 6


async def test_a_store_that_fails_for_a_while_only_delays() -> None:
    class Failing(MemoryRevisionStore):
        fails = 0

        async def save_rollouts(self, rollouts: Sequence[tuple[str, Rollout]], term: int) -> None:
            await super().save_rollouts(rollouts, term)
            if self.fails:
                self.fails -= 1
                raise Unavailable("STORE_UNAVAILABLE", "the reply is lost")

    store = Failing(8)
    async with FakeFleet(store).reigning() as run:
        processes = await joined(run)
        store.fails = 3
        await run.sync(fleet())
        await run.until_stages("COMPLETE")
        assert store.fails == 0
        assert generations(processes) == [1] * 5


async def test_a_restored_store_is_led_beyond_what_its_workers_know_and_its_content_reissued() -> None:
    run = FakeFleet(MemoryRevisionStore(8))
    async with run.reigning():
        processes = await joined(run)
        await run.sync(fleet())
        await run.until_stages("COMPLETE")
    backup = copy.deepcopy(run.store)
    async with run.reigning():
        await run.sync(fleet(prompt="Lost with the store."))
        await run.until_stages("COMPLETE", "COMPLETE")
        lost = run.reign.term
        assert generations(processes) == [2] * 5
    run.restored(backup)
    async with run.reigning():
        assert run.reign.term == lost, "the same term again"
        await run.until(lambda: run.exceeded)
        assert max(run.exceeded) == lost
        assert await run.stages() == ["COMPLETE"], "nothing is written in a term that others may have written in"
    async with run.reigning(beyond=max(run.exceeded)):
        assert run.reign.term > lost
        await run.until_stages("COMPLETE", "COMPLETE")
        newest, first = await run.store.revisions(2)
        assert newest.content_hash == first.content_hash
        assert (newest.term, newest.generation) > (lost, 2)
        assert {process.running.revision_id for process in processes if process.running} == {newest.revision_id}
        await run.pass_time(30.0)
        assert len(await run.stages()) == 2, "once"


async def test_what_is_committed_before_a_reign_in_an_exceeded_term_ends_reaches_the_workers_all_the_same() -> None:
    """It is in the same place as what was lost, and nobody can tell the two apart by that."""
    run = FakeFleet(MemoryRevisionStore(8))
    async with run.reigning():
        processes = await joined(run)
        await run.sync(fleet())
        await run.until_stages("COMPLETE")
    backup = copy.deepcopy(run.store)
    async with run.reigning():
        lost = await run.sync(fleet(prompt="Lost with the store."))
        await run.until_stages("COMPLETE", "COMPLETE")
    run.restored(backup)
    async with run.reigning():
        await run.until(lambda: run.exceeded)
        meanwhile = await run.sync(fleet(prompt="Meanwhile."))
        assert (meanwhile.term, meanwhile.generation) == (lost.term, lost.generation)
        await run.pass_time(1.0)
        assert all(2 not in process.asked[2:] for process in processes), "nobody is brought it in its place"
    async with run.reigning(beyond=max(run.exceeded)):
        await run.until_stages("COMPLETE", "SUPERSEDED", "COMPLETE")
        newest, *_ = await run.store.revisions(1)
        assert newest.content_hash == meanwhile.content_hash
        assert (newest.term, newest.generation) > (lost.term, lost.generation)
        assert {process.running.content_hash for process in processes if process.running} == {meanwhile.content_hash}


async def test_a_worker_that_joins_late_gets_the_newest_and_one_in_a_rollout_the_stable_one() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        processes = await joined(run)
        await run.sync(fleet())
        await run.until_stages("COMPLETE")
        late = await run.join("late")
        await run.until(lambda: late.generation == 1)
        for process in processes:
            process.take = hang
        await run.sync(fleet(prompt="Next."))
        await run.until(lambda: any(2 in process.asked for process in processes))
        later = await run.join("later")
        await run.until(lambda: later.generation == 1)
        wanted = {status.worker_id: status.wanted_revision_id for status in run.status.workers()}
        newest, first = await run.store.revisions(2)
        assert wanted["later"] == first.revision_id
        assert newest.revision_id in wanted.values(), "the canary's"


async def test_a_worker_that_joins_late_and_fails_is_told_of_and_not_asked_again() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        await joined(run, apply, ["a"])
        await run.sync(fleet(prompt="bad"))
        await run.until_stages("COMPLETE")
        late = await run.join("late", refuse_bad)
        await run.pass_time(5.0)
        rollout = (await run.rollouts())[1]
        (outcome,) = [one for one in rollout.workers if one.worker_id == "late"]
        assert (outcome.failed, bool(outcome.error.message), outcome.canary) == (True, True, False)
        assert await run.stages() == ["COMPLETE"]
        assert late.asked == [1]
        # and a process after it, to which the next leader talks, may be better off
    async with run.reigning():
        again = await run.join("late", instance_id="late-2")
        await run.until(lambda: again.generation == 1)
        await run.pass_time(1.0)
        assert not any(one.failed for one in (await run.rollouts())[1].workers)


async def test_nothing_is_committed_by_who_leads_no_more() -> None:
    run = FakeFleet(MemoryRevisionStore(8))
    with pytest.raises(Deposed):
        async with run.reigning():
            await joined(run)
            await run.store.lead(await run.store.leadership(), "another", "there:1")
            with pytest.raises(Deposed):
                await run.sync(fleet())
            with pytest.raises(Deposed):
                await run.join("new")
            for process in run.processes.values():
                process.attempt = attempt_at(ConfigSpec(generation=1, term=1))
            await run.pass_time(5.0)
    assert await run.store.revisions(1) == []


async def test_syncs_are_debounced() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        (process,) = await joined(run, apply, ["a"])
        await settled()
        for number in range(1, 300):
            await run.sync(fleet(prompt=f"Prompt {number}."))
            await settled()
            run.clock.advance(0.09)
            await settled()
            if process.asked:
                break
        assert process.asked == [number], "after ten seconds of a stream of Syncs, the newest"
        assert 100 < number < 130
        await run.sync(fleet(prompt="The last."))
        await settled()
        run.clock.advance(0.1)
        await settled()
        assert process.asked == [number, number + 1]


async def test_a_stale_parent_is_told_the_newest() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        await joined(run, refuse_bad)
        first = await run.sync(fleet())
        with pytest.raises(Aborted) as raised:
            await run.reign.syncs.sync(SyncRequest(revision_id=uuid7(), resources=fleet(prompt="x")))
        assert raised.value.metadata == {"current_revision_id": first.revision_id}


async def test_in_a_term_that_is_exceeded_nothing_is_rolled_out_any_more() -> None:
    run = FakeFleet(MemoryRevisionStore(8))
    async with run.reigning():
        processes = await joined(run)
        await run.sync(fleet())
        await run.until_stages("COMPLETE")
        for process in processes:
            process.take = hang
        await run.sync(fleet(prompt="Held up."))
        await run.until_stages("COMPLETE", "CANARY")
    for process in processes:
        process.running = RunningRevision(revision_id="lost", term=2, generation=9)
        process.attempt, process.take = None, apply
        process.asked.clear()
    async with run.reigning():
        await run.pass_time(30.0)
        assert set(run.exceeded) == {2}
        assert await run.stages() == ["COMPLETE", "CANARY"]
        assert [process.asked for process in processes] == [[]] * 5


async def test_a_worker_that_has_other_content_in_the_newest_revisions_place_knows_more_than_the_store() -> None:
    run = FakeFleet(MemoryRevisionStore(8))
    async with run.reigning():
        (process,) = await joined(run, apply, ["a"])
        about = await run.sync(fleet())
        await run.until_stages("COMPLETE")
        assert run.exceeded == []
        process.running = RunningRevision(term=about.term, generation=about.generation, content_hash="other")
        process.attempt = None
        await run.pass_time(1.0)
        assert set(run.exceeded) == {about.term}


async def test_a_worker_that_drains_in_the_middle_of_it_makes_room_however_few_may_fail() -> None:
    """One that is lost keeps its place here, for the revision may be what killed it."""
    careful = RolloutPolicy(max_unavailable=WorkerShare(workers=1), max_failures=0)
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        canary, *others = await joined(run, names=["a", "b", "c"])
        canary.take, canary.releases = hang, False
        await run.sync(fleet(), careful)
        await run.until(lambda: canary.asked)
        assert generations(others) == [0, 0]
        await run.reign.drain("a")
        await run.until_stages("COMPLETE", seconds=5.0)
        assert generations(others) == [1, 1]


async def test_who_is_lost_and_who_drains_hold_nothing_up() -> None:
    async with FakeFleet(MemoryRevisionStore(8)).reigning() as run:
        processes = await joined(run)
        await run.pass_time(12.0)
        run.kill(processes[0])
        processes[1].releases = False
        await run.reign.drain("b")
        await run.pass_time(3.0)
        await run.sync(fleet())
        await run.until_stages("COMPLETE", seconds=5.0)
        assert generations(processes) == [0, 0, 1, 1, 1]
