"""Order within streams, against a model that keeps every number ever settled or passed over."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.broker.order import Place, Position

SEQUENCES = st.integers(1, 12)
PASS_OVER = 0
"""Stands for giving up the number that comes next; any other step is a number that arrives."""


class Naive:
    """What a receiver would do with an unbounded memory."""

    def __init__(self) -> None:
        self.settled: set[int] = set()
        self.passed_over: set[int] = set()

    @property
    def next(self) -> int:
        return next(n for n in range(1, 1_000) if n not in self.settled | self.passed_over)

    def place(self, sequence: int) -> Place:
        if sequence in self.settled:
            return Place.SETTLED
        return Place.BEYOND if sequence > self.next else Place.NEXT


@given(st.lists(st.one_of(SEQUENCES, st.just(PASS_OVER)), max_size=60))
def test_position_knows_what_a_full_memory_knows(steps: list[int]) -> None:
    position, naive = Position(), Naive()
    for step in steps:
        if step == PASS_OVER:
            naive.passed_over.add(naive.next)
            position = position.pass_over()
        elif naive.place(step) is Place.NEXT:
            naive.settled.add(step)
            position = position.settle(step)

        assert [position.place(n) for n in range(1, 80)] == [naive.place(n) for n in range(1, 80)]
        assert position.gaps == naive.passed_over - naive.settled


@given(st.permutations(range(1, 15)))
def test_each_number_may_start_exactly_once_however_they_come(arrivals: list[int]) -> None:
    position, started, waiting = Position(), [], set[int]()
    for arrival in arrivals + arrivals:
        waiting.add(arrival)
        while startable := [n for n in sorted(waiting) if position.place(n) is Place.NEXT]:
            started.append(startable[0])
            position = position.settle(startable[0])
        waiting = {n for n in waiting if position.place(n) is Place.BEYOND}

    assert started == sorted(arrivals)
    assert position == Position(settled=14)


def test_a_gap_that_is_filled_late_may_still_run_once() -> None:
    position = Position().settle(1).pass_over().settle(3)

    assert position == Position(settled=3, gaps=frozenset({2}))
    assert position.place(2) is Place.NEXT
    assert position.settle(2) == Position(settled=3)
    assert position.settle(2).place(2) is Place.SETTLED


@pytest.mark.parametrize("sequence", [1, 3])
def test_only_what_is_next_can_be_settled(sequence: int) -> None:
    with pytest.raises(ValueError, match=f"{sequence} cannot be settled after 1"):
        Position(settled=1).settle(sequence)
