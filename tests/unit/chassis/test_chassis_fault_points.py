"""A process dies at the fault point that it was told to, as often reached as it was told; without that nothing happens
and it costs nothing."""

import signal
import subprocess
import sys
import timeit
from collections.abc import Callable

import pytest

from troupe.chassis import fault_points
from troupe.chassis.errors import InvalidArgument

REACHES = """
import os
from troupe.chassis import fault_points
fault_points.arm(os.environ)
for point in ("commit.before", "commit.after", "commit.before"):
    fault_points.reach(point)
    print("past", point, flush=True)
"""


def reached(armed: str | None) -> subprocess.CompletedProcess[str]:
    environment = {} if armed is None else {fault_points.VARIABLE: armed}
    return subprocess.run([sys.executable, "-c", REACHES], env=environment, capture_output=True, text=True, check=False)


def test_a_process_kills_itself_where_it_was_told_to() -> None:
    done = reached("journal.after:1, commit.before:2")

    assert done.returncode == -signal.SIGKILL
    assert done.stdout.splitlines() == ["past commit.before", "past commit.after"]
    assert done.stderr == "killed at the fault point commit.before\n"


def test_the_first_time_counts_where_no_number_is_given() -> None:
    assert reached("commit.after").stdout.splitlines() == ["past commit.before"]


@pytest.mark.parametrize("armed", [None, "", "commit.before:3"])
def test_a_process_goes_on_where_it_is_told_of_no_point_or_never_gets_there(armed: str | None) -> None:
    assert reached(armed).returncode == 0


@pytest.mark.parametrize("armed", ["comit.before", "commit.before:0", "commit.before:often"])
def test_a_point_that_is_none_is_refused(armed: str) -> None:
    with pytest.raises(InvalidArgument, match=r"is not NAME:NTH, of the points ack\.after"):
        fault_points.arm({fault_points.VARIABLE: armed})


def test_a_point_that_is_not_armed_costs_little_more_than_the_call() -> None:
    def nothing(point: str) -> None:
        pass

    def least(call: Callable[[str], None]) -> float:
        return min(timeit.repeat(lambda: call("commit.before"), number=1_000, repeat=200))

    assert least(fault_points.reach) < 3 * least(nothing)
