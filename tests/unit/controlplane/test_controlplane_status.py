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


def report(member: Member, sequence: int = 1, attempt: RevisionAttempt | None = None) -> StatusReport:
    return StatusReport(
        worker_id=member.worker_id,
        instance_id=member.instance_id,
        sequence=sequence,
        last_attempt=attempt,
        health=Health(state=HealthState.HEALTH_STATE_HEALTHY),
    )


def status(*known: Member, max_watchers: int = 10) -> FleetStatus:
    made = FleetStatus(FakeClock(), max_watchers)
    for member in known:
        made.known(KnownWorker(member))
    return made


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
    fleet = status(B, A)
    fleet.hear(A, report(A, 5))
    fleet.current(RevisionInfo(generation=3))
    with fleet.watching() as watch:
        first = drained(watch)
        assert told(first) == ["a:5", "b:0", "synced"]
        assert first[2].synced.current.generation == 3
        fleet.hear(B, report(B, 1))
        fleet.forget("a")
        fleet.current(RevisionInfo(generation=4))
        pieces = drained(watch)
        assert told(pieces) == ["b:1", "-a", "revision"]
        assert pieces[2].revision.generation == 4
    fleet.hear(B, report(B, 2))
    assert len(watch) == 0, "who left is told nothing"


async def test_what_waits_is_the_newest_of_each_worker_and_of_the_revision() -> None:
    fleet = status(A)
    with fleet.watching() as watch:
        for sequence in range(1, 100):
            fleet.hear(A, report(A, sequence))
        assert told(drained(watch)) == ["a:99", "synced"], "before synced too"
        for sequence in range(100, 200):
            fleet.hear(A, report(A, sequence))
            fleet.current(RevisionInfo(generation=sequence))
        assert told(drained(watch)) == ["a:199", "revision"]


async def test_a_worker_that_is_lost_says_why_until_its_next_word() -> None:
    fleet = status(A)
    fleet.hear(A, report(A, 7))
    with fleet.watching() as watch:
        drained(watch)
        fleet.lost("a", "no word for 10 s or longer")
        fleet.lost("a", "no word for 10 s or longer")
        (piece,) = drained(watch)
        assert told([piece]) == ["a:LOST"]
        assert piece.worker.report.health.cause == "no word for 10 s or longer"
        assert piece.worker.reported_at.seconds == 1_700_000_000
        fleet.back("a")
        assert told(drained(watch)) == ["a:7"], "what it last said counts again"
        fleet.lost("a", "nobody listens")
        fleet.hear(A, report(A, 8))
        assert told(drained(watch)) == ["a:8"]


async def test_what_changes_nothing_is_told_to_nobody() -> None:
    fleet = status(A)
    fleet.current(RevisionInfo(generation=1))
    with fleet.watching() as watch:
        drained(watch)
        fleet.known(KnownWorker(A))
        fleet.back("a")
        fleet.wants("a", "")
        fleet.wants("stranger", "r")
        fleet.current(RevisionInfo(generation=1))
        assert drained(watch) == []


async def test_what_a_worker_is_to_run_is_shown() -> None:
    fleet = status(A)
    fleet.wants("a", "r1")
    fleet.hear(A, report(A))
    assert fleet.workers()[0].wanted_revision_id == "r1"


async def test_a_new_process_begins_without_a_report_and_the_old_one_is_not_heard() -> None:
    fleet = status(A)
    attempt = RevisionAttempt(generation=4)
    fleet.hear(A, report(A, 9, attempt))
    newer = Member("a", "a-2", "host:9")
    fleet.known(KnownWorker(newer, attempt, Capacity(cpus=4)))
    fleet.hear(A, report(A, 10))
    (shown,) = fleet.workers()
    assert (shown.address, shown.report.instance_id, shown.report.sequence) == ("host:9", "a-2", 0)
    assert (shown.report.last_attempt, shown.report.capacity.cpus) == (attempt, 4)
    assert not shown.HasField("reported_at")


async def test_who_stands_by_shows_what_is_stored_and_no_more() -> None:
    fleet = status(A, B)
    fleet.hear(A, report(A, 9))
    fleet.lost("b", "no word")
    fleet.wants("a", "r1")
    fleet.unheard()
    assert [(one.report.sequence, one.report.health.state, one.wanted_revision_id) for one in fleet.workers()] == [
        (0, HealthState.HEALTH_STATE_UNSPECIFIED, "")
    ] * 2
    assert not fleet.workers()[0].report.HasField("last_attempt")
    fleet.known(KnownWorker(A, draining=True))
    assert fleet.workers()[0].report.health.state == HealthState.HEALTH_STATE_DRAINING


async def test_a_watcher_that_never_reads_holds_one_piece_per_worker_and_nobody_else_notices() -> None:
    fleet = status(A)
    with fleet.watching() as slow, fleet.watching() as quick:
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
    fleet = status(A, max_watchers=1_000)
    seen: list[list[str]] = []

    async def watch() -> None:
        with fleet.watching() as own:
            told_so_far: list[str] = []
            while told_so_far[-1:] != ["a:3"]:
                told_so_far += told([await own.get()])
            seen.append(told_so_far)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for _ in range(1_000):
            group.create_task(watch())
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted, match="1,000 watch already"), fleet.watching():
            pass
        for sequence in (1, 2, 3):
            fleet.hear(A, report(A, sequence))
    assert len(seen) == 1_000
    assert {one[-1] for one in seen} == {"a:3"}
