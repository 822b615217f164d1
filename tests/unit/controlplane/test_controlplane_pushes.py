"""When a worker is brought which revision."""

from support.fake_workers import attempt_at

from troupe.controlplane.delays import backoff
from troupe.controlplane.packed import Packed
from troupe.controlplane.pushes import Pushes, RetryTimes
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.status_pb2 import ApplyPhase, RevisionAttempt, RunningRevision, StatusReport
from troupe.v1.turn_pb2 import ErrorDetail


def config(generation: int) -> ConfigSpec:
    return ConfigSpec(revision_id=f"r{generation}", generation=generation, term=1)


def failed(generation: int, *, retryable: bool, reason: str = "BROKEN") -> RevisionAttempt:
    error = ErrorDetail(reason=reason, retryable=retryable)
    return attempt_at(config(generation), ApplyPhase.APPLY_PHASE_ROLLED_BACK, error)


def pending(generation: int) -> RevisionAttempt:
    return attempt_at(config(generation), ApplyPhase.APPLY_PHASE_PENDING)


def pushes() -> Pushes:
    """Without jitter."""
    return Pushes(lambda: 1.0, RetryTimes(first=1.0, longest=60.0))


def offered(generation: int = 1) -> Pushes:
    made = pushes()
    made.offer(Packed.of(config(generation)), 0.0)
    return made


def test_nothing_is_due_before_there_is_a_revision() -> None:
    assert pushes().due(0.0) is None


def test_the_newest_revision_is_due_at_once_and_once() -> None:
    worker = offered(1)
    worker.offer(Packed.of(config(2)), 0.0)
    assert worker.due(0.0) == (Packed.of(config(2)), 0.0)
    worker.answered(attempt_at(config(2)), 0.0)
    assert worker.due(0.0) is None
    worker.offer(Packed.of(config(2)), 0.0)
    assert worker.due(0.0) is None, "the same again is nothing new"


def test_an_answer_about_an_older_revision_settles_nothing() -> None:
    worker = offered(1)
    worker.offer(Packed.of(config(2)), 0.0)
    worker.answered(attempt_at(config(1)), 0.0)
    worker.failed(Packed.of(config(1)), False, 0.0)
    assert worker.due(0.0) == (Packed.of(config(2)), 0.0)


def test_what_may_pass_is_tried_again_later_and_later() -> None:
    worker = offered()
    waits = []
    for _ in range(9):
        worker.answered(failed(1, retryable=True), 100.0)
        due = worker.due(100.0)
        assert due is not None
        waits.append(due[1])
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert worker.due(500.0) == (Packed.of(config(1)), 0.0)
    assert not worker.parked


def test_what_is_refused_for_good_is_parked_until_the_next_revision() -> None:
    worker = offered()
    worker.answered(failed(1, retryable=False), 0.0)
    assert worker.parked
    assert worker.due(1e9) is None
    worker.connected()
    assert worker.due(1e9) is None, "reaching it again changes nothing"
    worker.offer(Packed.of(config(2)), 0.0)
    assert worker.due(0.0) == (Packed.of(config(2)), 0.0)
    assert not worker.parked


def test_errors_of_the_call_count_like_answers() -> None:
    worker = offered()
    worker.failed(Packed.of(config(1)), True, 0.0)
    assert worker.due(0.0) == (Packed.of(config(1)), 1.0)
    worker.connected()
    assert worker.due(0.0) == (Packed.of(config(1)), 0.0), "a worker that is reached again need not wait"
    worker.failed(Packed.of(config(1)), False, 0.0)
    assert worker.due(0.0) is None


def test_a_worker_that_runs_the_newest_already_is_brought_nothing() -> None:
    worker = offered()
    worker.reported(StatusReport(running=RunningRevision(generation=1, term=1)), 0.0)
    assert worker.due(0.0) is None
    again = offered()
    again.reported(StatusReport(last_attempt=pending(1)), 0.0)
    assert again.due(0.0) is None


def test_a_worker_that_refused_the_newest_before_is_not_asked_again() -> None:
    worker = offered()
    worker.reported(StatusReport(last_attempt=failed(1, retryable=False)), 0.0)
    assert worker.due(0.0) is None
    assert worker.parked


def test_a_failure_after_the_answer_is_tried_again_and_counted_once() -> None:
    worker = offered()
    worker.answered(pending(1), 0.0)
    assert worker.due(0.0) is None
    worker.reported(StatusReport(last_attempt=failed(1, retryable=True)), 10.0)
    assert worker.due(10.0) == (Packed.of(config(1)), 1.0)
    worker.reported(StatusReport(last_attempt=failed(1, retryable=True)), 13.0)
    assert worker.due(13.0) == (Packed.of(config(1)), 0.0), "the report says again what it said before"
    worker.answered(pending(1), 13.0)
    worker.reported(StatusReport(last_attempt=failed(1, retryable=True)), 20.0)
    assert worker.due(20.0) == (Packed.of(config(1)), 2.0)


def test_delays_are_shortened_by_up_to_half() -> None:
    assert [backoff(failures, 0.1, 5.0, lambda: 0.0) for failures in (1, 2, 10_000)] == [0.05, 0.1, 2.5]
    assert backoff(1, 0.1, 5.0, lambda: 1.0) == 0.1
