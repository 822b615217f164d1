"""The fleet's status and its watchers."""

import asyncio

import pytest
from support.fake_clock import FakeClock

from troupe.chassis.errors import ResourceExhausted
from troupe.controlplane.placement import Member
from troupe.controlplane.status import FleetStatus
from troupe.controlplane.stores.port import KnownWorker
from troupe.controlplane.watching import MAX_WAITING, Watch
from troupe.v1.control_plane_pb2 import RevisionInfo, WatchStatusResponse
from troupe.v1.status_pb2 import Capacity, Health, HealthState, RevisionAttempt, StatusReport

A, B = Member("a", "a-1", "host:1"), Member("b", "b-1", "host:2")
LEASE = 10.0


def report(member: Member, sequence: int = 1, attempt: RevisionAttempt | None = None) -> StatusReport:
    return StatusReport(
        worker_id=member.worker_id,
        instance_id=member.instance_id,
        sequence=sequence,
        last_attempt=attempt,
        health=Health(state=HealthState.HEALTH_STATE_HEALTHY),
    )


def status(clock: FakeClock, max_watchers: int = 10) -> FleetStatus:
    return FleetStatus(clock, LEASE, max_watchers)


def drained(watch: Watch) -> list[WatchStatusResponse]:
    pieces = []
    while len(watch):
        coroutine = watch.get()
        with pytest.raises(StopIteration) as stopped:
            coroutine.send(None)
        pieces.append(stopped.value.value)
    return pieces


def told(pieces: list[WatchStatusResponse]) -> list[str]:
    """Each piece in short: `a:3` (worker a, sequence 3), `a:LOST`, `-a`, `synced`."""
    short = []
    for piece in pieces:
        match piece.WhichOneof("kind"):
            case "worker":
                lost = piece.worker.report.health.state == HealthState.HEALTH_STATE_LOST
                short.append(f"{piece.worker.worker_id}:{'LOST' if lost else piece.worker.report.sequence}")
            case "removed_worker_id":
                short.append(f"-{piece.removed_worker_id}")
            case kind:
                short.append(str(kind))
    return short


async def test_a_watcher_gets_a_snapshot_then_synced_then_changes() -> None:
    fleet = status(FakeClock())
    fleet.register(B, Capacity())
    fleet.register(A, Capacity(cpus=2))
    fleet.hear(A, report(A, 5))
    with fleet.watching(RevisionInfo(generation=3)) as watch:
        first = drained(watch)
        assert told(first) == ["a:5", "b:0", "synced"]
        assert first[2].synced.current.generation == 3
        fleet.hear(B, report(B, 1))
        fleet.forget("a")
        assert told(drained(watch)) == ["b:1", "-a"]
    fleet.hear(B, report(B, 2))
    assert len(watch) == 0, "who left is told nothing"


async def test_what_waits_is_the_newest_of_each_worker_before_synced_too() -> None:
    fleet = status(FakeClock())
    fleet.register(A, Capacity())
    with fleet.watching(None) as watch:
        for sequence in range(1, 100):
            fleet.hear(A, report(A, sequence))
        assert told(drained(watch)) == ["a:99", "synced"]
        for sequence in range(100, 200):
            fleet.hear(A, report(A, sequence))
        assert told(drained(watch)) == ["a:199"]


async def test_a_worker_is_lost_after_its_lease_and_back_with_any_word() -> None:
    clock = FakeClock()
    fleet = status(clock)
    fleet.register(A, Capacity())
    fleet.hear(A, report(A, 7))
    with fleet.watching(None) as watch:
        drained(watch)
        clock.advance(LEASE - 0.1)
        assert fleet.expire() == []
        clock.advance(0.1)
        assert fleet.expire() == ["a"]
        assert fleet.expire() == [], "it is lost once"
        assert not fleet.is_alive("a")
        (piece,) = drained(watch)
        assert told([piece]) == ["a:LOST"]
        assert "no word for 10 s" in piece.worker.report.health.cause
        assert piece.worker.reported_at.seconds == 1_700_000_000
        fleet.register(A, Capacity())
        assert told(drained(watch)) == ["a:7"], "what it last said counts again"
        clock.advance(LEASE)
        fleet.expire()
        fleet.hear(A, report(A, 8))
        assert told(drained(watch)) == ["a:8"]


async def test_registering_and_reporting_renew_the_lease() -> None:
    clock = FakeClock()
    fleet = status(clock)
    fleet.register(A, Capacity())
    for _ in range(3):
        clock.advance(LEASE - 1)
        fleet.register(A, Capacity())
        clock.advance(LEASE - 1)
        fleet.hear(A, report(A))
        assert fleet.expire() == []


async def test_renewing_tells_watchers_nothing() -> None:
    fleet = status(FakeClock())
    fleet.register(A, Capacity())
    with fleet.watching(None) as watch:
        drained(watch)
        fleet.register(A, Capacity())
        assert drained(watch) == []


async def test_a_new_process_begins_without_a_report_and_the_old_one_is_not_heard() -> None:
    fleet = status(FakeClock())
    attempt = RevisionAttempt(generation=4)
    fleet.register(A, Capacity())
    assert fleet.hear(A, report(A, 9, attempt))
    newer = Member("a", "a-2", "host:9")
    fleet.register(newer, Capacity(cpus=4))
    assert not fleet.hear(A, report(A, 10))
    (shown,) = fleet.workers()
    assert (shown.address, shown.report.instance_id, shown.report.sequence) == ("host:9", "a-2", 0)
    assert (shown.report.last_attempt, shown.report.capacity.cpus) == (attempt, 4)
    assert not shown.HasField("reported_at")


async def test_a_restored_worker_has_one_lease_to_say_a_word() -> None:
    clock = FakeClock()
    fleet = status(clock)
    fleet.restore(KnownWorker(A, RevisionAttempt(generation=4)))
    assert fleet.workers()[0].report.last_attempt.generation == 4
    assert fleet.is_alive("a")
    clock.advance(LEASE)
    assert fleet.expire() == ["a"]
    assert fleet.lost_for(5.0) == []
    clock.advance(5.0)
    assert fleet.lost_for(5.0) == ["a"]


async def test_a_watcher_that_never_reads_holds_one_piece_per_worker_and_nobody_else_notices() -> None:
    fleet = status(FakeClock())
    fleet.register(A, Capacity())
    with fleet.watching(None) as slow, fleet.watching(None) as quick:
        for sequence in range(1, 1_000):
            fleet.hear(A, report(A, sequence))
            drained(quick)
        assert len(slow) == 2
        fleet.hear(A, report(A, 1_000))
        assert told(drained(quick)) == ["a:1000"]


async def test_a_watcher_that_never_reads_while_workers_come_and_go_is_closed() -> None:
    watch = Watch()
    for number in range(MAX_WAITING + 1):
        watch.put(f"w{number}", WatchStatusResponse(removed_worker_id=f"w{number}"))
    assert len(watch) == MAX_WAITING
    with pytest.raises(ResourceExhausted):
        await watch.get()


async def test_a_thousand_watchers_see_the_same() -> None:
    fleet = status(FakeClock(), max_watchers=1_000)
    seen: list[list[str]] = []

    async def watch() -> None:
        with fleet.watching(None) as own:
            told_so_far: list[str] = []
            while told_so_far[-1:] != ["a:3"]:
                told_so_far += told([await own.get()])
            seen.append(told_so_far)

    fleet.register(A, Capacity())
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for _ in range(1_000):
            group.create_task(watch())
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted, match="1,000 watch already"), fleet.watching(None):
            pass
        for sequence in (1, 2, 3):
            fleet.hear(A, report(A, sequence))
    assert len(seen) == 1_000
    assert {one[-1] for one in seen} == {"a:3"}
