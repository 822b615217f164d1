"""The split by cause: every nanosecond of the wall time belongs to one row or to the residual."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.chassis.ledger import PRECEDENCE, Interval, Ledger, attribute
from troupe.v1 import turn_pb2
from troupe.v1.turn_pb2 import LedgerCause

TOOL = turn_pb2.LEDGER_CAUSE_TOOL
MODEL = turn_pb2.LEDGER_CAUSE_MODEL_STREAMING
STORE = turn_pb2.LEDGER_CAUSE_STATE_STORE
BROKER = turn_pb2.LEDGER_CAUSE_BROKER_WAIT

CAUSES = st.sampled_from(PRECEDENCE)
# Stamps of any clock: of a process that just started, of one that has run for years, of the epoch.
ORIGINS = st.sampled_from([0.0, 1e-3, 12_345.678, 1e8 / 3, 1_700_000_000.123])
OFFSETS = st.one_of(st.floats(-2, 12), st.integers(0, 10).map(float), st.floats(0, 1e-7))


@st.composite
def ledgers(draw: st.DrawFn) -> tuple[Ledger, float, float]:
    origin = draw(ORIGINS)
    ledger = Ledger()
    for cause, start, end in draw(st.lists(st.tuples(CAUSES, OFFSETS, OFFSETS), max_size=30)):
        ledger.add(cause, origin + start, origin + end)
    return ledger, origin, origin + draw(OFFSETS)


@given(ledgers())
def test_rows_and_residual_sum_to_the_wall_time_exactly(given_: tuple[Ledger, float, float]) -> None:
    ledger, start, end = given_

    split = ledger.split(start, end)

    wall = split.wall.ToNanoseconds()
    rows = [row.duration.ToNanoseconds() for row in split.rows]
    assert wall == max(0, round((end - start) * 1e9))
    assert sum(rows) + split.residual.ToNanoseconds() == wall
    assert split.residual.ToNanoseconds() >= 0
    assert all(row > 0 for row in rows)
    assert rows == sorted(rows, reverse=True)
    assert len({row.cause for row in split.rows}) == len(rows)


SECONDS = st.integers(0, 12)


@given(st.lists(st.tuples(CAUSES, SECONDS, SECONDS), max_size=20), SECONDS, SECONDS)
def test_each_second_goes_to_the_claim_of_highest_precedence(
    claims: list[tuple[LedgerCause.ValueType, int, int]], start: int, end: int
) -> None:
    expected: dict[LedgerCause.ValueType, float] = {}
    for second in range(start, end):
        claimants = [cause for cause, first, last in claims if first <= second < last]
        if claimants:
            holder = min(claimants, key=PRECEDENCE.index)
            expected[holder] = expected.get(holder, 0.0) + 1.0

    assert attribute([Interval(*claim) for claim in claims], start, end) == expected


def test_every_cause_has_its_place() -> None:
    assert sorted([turn_pb2.LEDGER_CAUSE_UNSPECIFIED, *PRECEDENCE]) == sorted(LedgerCause.values())


def test_parallel_tools_count_once() -> None:
    ledger = Ledger()
    for _ in range(3):
        ledger.add(TOOL, 1.0, 3.0)

    assert _rows(ledger, 0.0, 4.0) == ([(TOOL, 2.0)], 2.0)


def test_a_tool_that_runs_while_the_model_streams_has_the_time() -> None:
    ledger = Ledger()
    ledger.add(MODEL, 0.0, 4.0)
    ledger.add(TOOL, 3.0, 5.0)

    assert _rows(ledger, 0.0, 5.0) == ([(MODEL, 3.0), (TOOL, 2.0)], 0.0)


def test_a_store_write_within_a_wait_is_taken_out_of_the_wait() -> None:
    ledger = Ledger()
    ledger.add(BROKER, 0.0, 2.0)
    ledger.add(STORE, 0.5, 1.0)

    assert _rows(ledger, 0.0, 2.0) == ([(BROKER, 1.5), (STORE, 0.5)], 0.0)


def test_only_the_time_asked_for_counts() -> None:
    ledger = Ledger()
    ledger.add(TOOL, -5.0, 1.0)
    ledger.add(STORE, 9.0, 20.0)

    assert _rows(ledger, 0.0, 10.0) == ([(STORE, 1.0), (TOOL, 1.0)], 8.0)


@pytest.mark.parametrize(("start", "end"), [(5.0, 5.0), (5.0, 4.0)])
def test_no_time_has_no_rows(start: float, end: float) -> None:
    ledger = Ledger()
    ledger.add(TOOL, 0.0, 10.0)

    assert _rows(ledger, start, end) == ([], 0.0)


def test_a_claim_that_ends_before_it_begins_claims_nothing() -> None:
    ledger = Ledger()
    ledger.add(TOOL, 3.0, 1.0)

    assert _rows(ledger, 0.0, 4.0) == ([], 4.0)


def _rows(ledger: Ledger, start: float, end: float) -> tuple[list[tuple[int, float]], float]:
    split = ledger.split(start, end)
    rows = [(int(row.cause), row.duration.ToNanoseconds() / 1e9) for row in split.rows]
    return rows, split.residual.ToNanoseconds() / 1e9
