"""The ledger table sums to the wall time as it is printed."""

import io
import re
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from troupe.cli.ledger_view import apportioned, ledger_table
from troupe.v1 import turn_pb2

CAUSES = [value for value in turn_pb2.LedgerCause.values() if value]


def ledger(residual: int, *rows: tuple["turn_pb2.LedgerCause.ValueType", int]) -> turn_pb2.Ledger:
    made = turn_pb2.Ledger()
    for cause, nanos in rows:
        made.rows.add(cause=cause).duration.FromNanoseconds(nanos)
    made.residual.FromNanoseconds(residual)
    made.wall.FromNanoseconds(residual + sum(nanos for _, nanos in rows))
    return made


def printed(made: turn_pb2.Ledger) -> list[list[str]]:
    """Name, time, unit and share of each row."""
    stream = io.StringIO()
    Console(file=stream, width=200).print(ledger_table(made))
    rows = [re.match(r"(.+?)\s{2,}([\d.,]+) (\S+)\s+([\d.]+) %", line) for line in stream.getvalue().splitlines()[1:]]
    return [[part.replace(",", "") for part in row.groups()] for row in rows if row]


@given(
    st.integers(0, 10**13),
    st.lists(st.integers(0, 10**13), max_size=len(CAUSES)),
)
def test_the_printed_times_and_shares_sum_to_the_wall_whatever_they_are(residual: int, nanos: list[int]) -> None:
    *parts, wall = printed(ledger(residual, *zip(CAUSES, nanos, strict=False)))
    assert sum(Decimal(row[1]) for row in parts) == Decimal(wall[1])
    assert {row[2] for row in parts} == {wall[2]}, "one unit, so that a person can add them up"
    assert sum(Decimal(row[3]) for row in parts) == Decimal(wall[3])


def test_the_longest_cause_comes_first_and_residual_and_wall_last() -> None:
    rows = printed(
        ledger(
            50_000_000,
            (turn_pb2.LEDGER_CAUSE_TOOL, 1_000_000),
            (turn_pb2.LEDGER_CAUSE_MODEL_FIRST_TOKEN, 20_000_000),
        )
    )
    assert rows == [
        ["model first token", "20.0", "ms", "28.2"],
        ["tool", "1.0", "ms", "1.4"],
        ["residual", "50.0", "ms", "70.4"],
        ["wall", "71.0", "ms", "100.0"],
    ]


def test_an_empty_ledger_is_all_zero() -> None:
    assert printed(ledger(0)) == [["residual", "0.0", "µs", "0.0"], ["wall", "0.0", "µs", "0.0"]]


def test_a_ledger_that_does_not_sum_is_not_made_to() -> None:
    """The contract says that it sums. A server that breaks it must be seen, not covered up."""
    broken = ledger(1_000_000, (turn_pb2.LEDGER_CAUSE_TOOL, 1_000_000))
    broken.wall.FromNanoseconds(5_000_000)
    assert [row[1] for row in printed(broken)] == ["1.0", "1.0", "5.0"]


@given(st.lists(st.integers(0, 10**15), min_size=1, max_size=20), st.integers(0, 10**6))
def test_parts_are_their_exact_share_rounded_down_or_up(amounts: list[int], total: int) -> None:
    parts = apportioned(amounts, total)
    whole = sum(amounts)
    assert sum(parts) == (total if whole else 0)
    for amount, part in zip(amounts, parts, strict=True):
        assert whole == 0 or abs(part * whole - amount * total) < whole
