"""Which workers are given up because they answer and do not work."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from troupe.controlplane.stuck import BLAME, FULL, REST, WELL, Stuck
from troupe.v1.status_pb2 import Load, ShardStatus, StatusReport

AFTER = 30.0
EVERY = 3.0
"""Seconds between two reports."""


@dataclass
class Process:
    """One that reports."""

    name: str
    shards: list[int]
    busy: float = 0.1
    held: dict[int, float] = field(default_factory=dict)
    """Since when something is held up, by shard."""
    settled: dict[int, int] = field(default_factory=dict)

    def report(self, now: float) -> StatusReport:
        return StatusReport(
            instance_id=self.name,
            load=Load(busy=self.busy),
            shards=[
                ShardStatus(
                    shard=shard,
                    epoch=1,
                    settled=self.settled.get(shard, 0),
                    held_up_seconds=now - self.held[shard] if shard in self.held else None,
                )
                for shard in self.shards
            ],
        )


class Fleet:
    """Processes, and who is to judge them."""

    def __init__(self, *processes: Process) -> None:
        self.now, self.processes, self.stuck = 1_000.0, list(processes), Stuck(AFTER)

    def pass_time(self, seconds: float) -> dict[str, frozenset[int]]:
        """Who was given up meanwhile."""
        found: dict[str, frozenset[int]] = {}
        for _ in range(round(seconds / EVERY)):
            self.now += EVERY
            for process in self.processes:
                self.stuck.reported(process.report(self.now), self.now)
            found |= self.judge()
        return found

    def judge(self) -> dict[str, frozenset[int]]:
        return self.stuck.judge([process.name for process in self.processes], self.now)


def pair() -> tuple[Process, Process, Fleet]:
    a, b = Process("a", [0, 1, 2]), Process("b", [3, 4, 5])
    return a, b, Fleet(a, b)


def test_who_has_something_held_up_and_settles_nothing_there_is_given_up() -> None:
    a, _, fleet = pair()
    a.held[1] = fleet.now
    assert fleet.pass_time(AFTER) == {}
    assert fleet.pass_time(2 * EVERY) == {"a": frozenset({1})}
    assert fleet.stuck.resting == {"a"}
    assert fleet.stuck.shards("a") == {1}
    assert fleet.stuck.shards("b") == frozenset()


def test_not_who_settles_on_that_shard_or_has_no_time() -> None:
    a, b, fleet = pair()
    c = Process("c", [6])
    fleet.processes.append(c)
    a.held[1] = c.held[6] = fleet.now
    c.busy = FULL
    for _ in range(20):
        a.settled[1] = a.settled.get(1, 0) + 1
        assert fleet.pass_time(AFTER / 3) == {}
    assert b.held == {}


def test_settling_elsewhere_is_no_excuse() -> None:
    a, _, fleet = pair()
    a.held[1] = fleet.now
    for _ in range(5):
        a.settled[2] = a.settled.get(2, 0) + 1
        fleet.pass_time(9.0)
    assert fleet.stuck.resting == {"a"}


def test_nobody_is_given_up_where_nobody_gets_on() -> None:
    a, b, fleet = pair()
    a.held[1] = fleet.now
    fleet.now += 10.0
    b.held[4] = fleet.now  # it has noticed a little later
    assert fleet.pass_time(600.0) == {}
    # When one of them gets over it
    b.held.clear()
    assert fleet.pass_time(EVERY) == {"a": frozenset({1})}


def test_nor_where_there_is_nobody_else() -> None:
    a = Process("a", [0], held={0: 0.0})
    assert Fleet(a).pass_time(600.0) == {}


def test_a_shard_takes_no_second_process_with_it() -> None:
    a, b, fleet = pair()
    a.held[1] = fleet.now
    assert fleet.pass_time(2 * AFTER) == {"a": frozenset({1})}
    # When it is held up where it went, too, and the first one is well again
    a.shards, a.held = [], {}
    b.shards, b.held = [1, 3, 4, 5], {1: fleet.now}
    assert fleet.pass_time(REST[0] + EVERY) == {}
    assert fleet.stuck.resting == frozenset()
    assert fleet.pass_time(BLAME / 2) == {}
    # But another one of its shards does
    b.held[4] = fleet.now
    assert fleet.pass_time(2 * AFTER) == {"b": frozenset({4})}


def test_who_was_given_up_rests_and_longer_each_time() -> None:
    a, _, fleet = pair()
    rests = []
    for shard in range(6):
        a.shards, a.held = [shard * 10], {shard * 10: fleet.now}
        assert fleet.pass_time(AFTER + 2 * EVERY) == {"a": frozenset({shard * 10})}
        began, a.held = fleet.now, {}
        while fleet.stuck.resting:
            fleet.pass_time(EVERY)
        rests.append(fleet.now - began)
    for found, expected in zip(rests, [60.0, 120.0, 240.0, 480.0, 960.0, 960.0], strict=True):
        assert expected - EVERY <= found <= expected + EVERY


def test_a_rest_goes_on_until_it_is_well() -> None:
    a, _, fleet = pair()
    a.held[1] = fleet.now
    fleet.pass_time(2 * AFTER)
    fleet.pass_time(5 * REST[0])
    assert fleet.stuck.resting == {"a"}
    a.held[1] = fleet.now - AFTER * WELL / 2
    fleet.pass_time(EVERY)
    assert fleet.stuck.resting == frozenset()


def test_another_process_of_the_worker_begins_anew() -> None:
    a, b, fleet = pair()
    a.held[1] = fleet.now
    fleet.pass_time(2 * AFTER)
    fleet.processes = [Process("a2", [0, 1, 2]), b]
    fleet.pass_time(EVERY)
    assert fleet.stuck.resting == frozenset()


conditions = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.integers(0, 8),
    st.sampled_from(["holds", "settles", "frees", "busy", "idle"]),
    st.integers(1, 12),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(conditions, max_size=20))
def test_whatever_comes_there_is_a_reason_and_somebody_who_gets_on(
    course: list[tuple[str, int, str, int]],
) -> None:
    processes = {name: Process(name, list(range(9))) for name in ("a", "b", "c")}
    fleet = Fleet(*processes.values())
    blamed: dict[int, float] = {}
    for name, shard, change, reports in course:
        process = processes[name]
        match change:
            case "holds":
                process.held.setdefault(shard, fleet.now)
            case "settles":
                process.settled[shard] = process.settled.get(shard, 0) + 1
            case "frees":
                process.held.pop(shard, None)
            case "busy":
                process.busy = 1.0
            case "idle":
                process.busy = 0.1
        for _ in range(reports):
            before = fleet.stuck.resting
            for given_up, shards in fleet.pass_time(EVERY).items():
                one = processes[given_up]
                assert given_up not in before
                assert one.busy < FULL
                assert all(fleet.now - one.held[each] > AFTER for each in shards)
                assert all(fleet.now - blamed.get(each, -BLAME) >= BLAME for each in shards)
                blamed.update(dict.fromkeys(shards, fleet.now))
                well = [
                    other
                    for other in processes.values()
                    if all(fleet.now - since <= AFTER * WELL for since in other.held.values())
                ]
                assert {other.name for other in well} - fleet.stuck.resting
            assert len(fleet.stuck.resting) < len(processes)
