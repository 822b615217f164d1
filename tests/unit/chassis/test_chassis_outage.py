"""What fails again and again is one line of the log, not one for each try."""

import pytest
from structlog.testing import capture_logs
from support.fake_clock import FakeClock

from troupe.chassis.outage import AGAIN, Outage, Outages


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def outage(clock: FakeClock) -> Outage:
    return Outage("cannot write", clock.monotonic)


def test_a_hundred_failures_are_one_line_and_the_end_another(outage: Outage, clock: FakeClock) -> None:
    with capture_logs() as lines:
        for _ in range(100):
            outage.failed(OSError("disk is full"), what="commit")
        clock.advance(3.0)
        outage.over()
        outage.over()

    assert lines == [
        {"event": "cannot write", "error": "disk is full", "failures": 1, "what": "commit", "log_level": "warning"},
        {"event": "works again", "after": "cannot write", "seconds": 3.0, "log_level": "info"},
    ]


def test_one_that_lasts_is_told_again_with_how_often_it_failed(outage: Outage, clock: FakeClock) -> None:
    with capture_logs() as lines:
        for _ in range(int(2 * AGAIN) + 1):
            outage.failed("away")
            clock.advance(1.0)

    assert [line["failures"] for line in lines] == [1, AGAIN, AGAIN]


def test_what_fails_and_works_by_turns_does_not_fill_the_log(outage: Outage, clock: FakeClock) -> None:
    with capture_logs() as lines:
        for _ in range(int(AGAIN)):
            outage.failed("away")
            outage.over()
            clock.advance(0.9)

    assert [line["event"] for line in lines] == ["cannot write", "works again"]


def test_what_never_failed_is_not_told_to_work(outage: Outage) -> None:
    with capture_logs() as lines:
        outage.over()

    assert lines == []


def test_each_thing_that_is_tried_has_its_own() -> None:
    outages = Outages(lambda: 0.0)
    with capture_logs() as lines:
        outages["cannot write", "commit"].failed("away")
        outages["cannot write", "inbox"].failed("away")
        outages["cannot write", "commit"].failed("away")

    assert len(lines) == 2
