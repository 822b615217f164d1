"""Where the time of a model call went."""

from troupe.chassis.ledger import Interval
from troupe.dataplane.llm.timings import ModelTimings
from troupe.v1 import turn_pb2

QUEUE = turn_pb2.LEDGER_CAUSE_MODEL_QUEUE
CONNECT = turn_pb2.LEDGER_CAUSE_CONNECT
FIRST_TOKEN = turn_pb2.LEDGER_CAUSE_MODEL_FIRST_TOKEN
STREAMING = turn_pb2.LEDGER_CAUSE_MODEL_STREAMING


class Watch:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def marked(*instants: str) -> ModelTimings:
    timings = ModelTimings(Watch())
    for instant in instants:
        timings.mark(instant)
    return timings


def test_a_whole_call() -> None:
    timings = marked("queued", "admitted", "connect_start", "connect_end", "sent", "first_token", "last_token", "ended")
    assert timings.intervals() == [
        Interval(QUEUE, 1, 2),
        Interval(CONNECT, 3, 4),
        Interval(FIRST_TOKEN, 5, 6),
        Interval(STREAMING, 6, 7),
    ]


def test_a_connection_used_again_takes_no_time() -> None:
    timings = marked("queued", "admitted", "sent", "first_token", "last_token", "ended")
    assert [interval.cause for interval in timings.intervals()] == [QUEUE, FIRST_TOKEN, STREAMING]


def test_a_part_that_was_cut_short_reaches_to_the_end() -> None:
    assert marked("queued", "admitted", "connect_start", "ended").intervals()[-1] == Interval(CONNECT, 3, 4)
    assert marked("queued", "admitted", "sent", "first_token", "ended").intervals()[-1] == Interval(STREAMING, 4, 5)


def test_a_part_that_goes_on_reaches_to_now() -> None:
    assert marked("queued").intervals() == [Interval(QUEUE, 1, 2)]


def test_a_call_that_has_not_begun_has_none() -> None:
    assert marked().intervals() == []
