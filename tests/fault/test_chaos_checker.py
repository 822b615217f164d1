"""The checker of the storms finds each way in which a history can be wrong, and nothing in one that is right; their
schedule is the same for the same seed."""

import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from fault.chaos import schedule
from fault.chaos.breaking import BREAKS, PACKAGE, broken
from fault.chaos.checker import check
from fault.chaos.history import Answer, Evidence, Letter, Sent, Settlement, Verbs
from fault.chaos.operations import Applied, Kind, Operation, Reply, State
from fault.chaos.recorder import Call

from troupe.chassis import fault_points


def history() -> Evidence:
    """Two notes and a call of the recorder in one session, which sends to another; one that is given up."""

    def sent(number: int, kind: Kind, end: Answer, **more: object) -> Sent:
        operation = Operation("c", number, kind, **more)  # type: ignore[arg-type]
        return Sent(f"c.s.{number}", "s", operation, ["gateway"], accepted=True, answers=[end], end=end)

    def done(place: int, result: int | None = None) -> Answer:
        return Answer("DONE", Reply(place, result).text())

    later = Sent("c-later.s.1", "s", Operation("c later", 1, Kind.LATER, delay=3.0), at=1.0, accepted=True)
    later.end = done(8)
    found = Evidence(
        sent=[
            sent(1, Kind.NOTE, done(0)),
            sent(2, Kind.RECORD, done(1, 7)),
            sent(3, Kind.HOPELESS, Answer("DEAD", "HOPELESS")),
            sent(4, Kind.SEND, done(2), targets=("t",)),
            sent(5, Kind.CHARGE, Answer("DEAD", "UNKNOWN_OUTCOME"), steps=1),
            sent(6, Kind.ASK, done(3, 40)),
            sent(7, Kind.PAUSE, done(4, 10), steps=2),
            sent(8, Kind.CANCEL, Answer("CANCELLED", "CANCELLED"), steps=2),
            sent(9, Kind.REMIND, done(5), delay=2.0),
            sent(10, Kind.EAGER, Answer("REJECTED", "SESSION_BUSY")),
            sent(11, Kind.CHARGE, done(7, 12), steps=1),
            later,
        ],
        states={
            "s": State(
                [
                    Applied("c", 1),
                    Applied("c", 2, 7),
                    Applied("c", 4),
                    Applied("c", 6, 40),
                    Applied("c", 7, 10, at=9.0),
                    Applied("c", 9, at=20.0),
                    Applied("reminder c.s.9", 1, at=22.5),
                    Applied("c", 11, 12),
                    Applied("c later", 1, at=4.5),
                ],
                {"t": 1},
            ),
            "t": State([Applied("session s", 1)]),
        },
        calls=[
            Call(7, "s", "c.s.2/0", 7, False, 5.0),
            Call(8, "s", "c.s.2/0", 7, False, 6.0),
            Call(9, "s", "c.s.7/0", 9, False, 6.0),
            Call(10, "s", "c.s.7/1", 10, False, 8.0),
            Call(11, "s", "c.s.8/0", 11, False, 6.0),
            Call(12, "s", "c.s.11/0", 12, True, 6.0),
            Call(13, "s", "c.s.8/1", 13, False, 6.1),
            Call(14, "s", "c.s.8/1/undone", 14, False, 6.6),
            Call(15, "s", "c.s.8/0/undone", 15, False, 6.7),
        ],
        letters=[Letter("s", "c.s.3", "HOPELESS"), Letter("s", "c.s.5", "UNKNOWN_OUTCOME")],
    )
    by_id(found, "c.s.6").settlements = [Settlement(40, "APPLIED"), Settlement(50, "DUPLICATE")]
    by_id(found, "c.s.7").verbs = Verbs("APPLIED", since=6.5, until=7.5, fate="PAUSED", resume="APPLIED")
    by_id(found, "c.s.8").verbs = Verbs("APPLIED", since=6.5)
    return found


def by_id(found: Evidence, message_id: str) -> Sent:
    return next(one for one in found.sent if one.message_id == message_id)


def test_a_history_that_is_right_is_found_so() -> None:
    verdict = check(history())

    assert (verdict.broken, verdict.lost, verdict.repeated) == ([], 0, 0)
    assert (verdict.settled, verdict.given_up, verdict.unknown) == (13, 1, 1)
    assert (verdict.cancelled, verdict.taken_back, verdict.paused, verdict.rejected) == (1, 2, 1, 1)


def forgets(found: Evidence) -> Evidence:
    del found.states["s"].applied[2]
    return found


def applies_twice(found: Evidence) -> Evidence:
    found.states["s"].applied.append(Applied("c", 1))
    return found


def charges_twice(found: Evidence) -> Evidence:
    return replace(found, calls=[*found.calls, Call(16, "s", "c.s.11/0", 16, True, 8.0)])


def lists_no_unknown_outcome(found: Evidence) -> Evidence:
    return replace(found, letters=found.letters[:1])


def gives_a_turn_another_value(found: Evidence) -> Evidence:
    found.states["s"].applied[3] = Applied("c", 6, 50)
    return found


def settles_a_promise_twice(found: Evidence) -> Evidence:
    by_id(found, "c.s.6").settlements[1] = Settlement(50, "APPLIED")
    return found


def goes_on_while_paused(found: Evidence) -> Evidence:
    verbs = by_id(found, "c.s.7").verbs
    assert verbs is not None
    verbs.since, verbs.until = 5.5, 8.5
    return found


def ends_while_paused(found: Evidence) -> Evidence:
    verbs = by_id(found, "c.s.7").verbs
    assert verbs is not None
    verbs.fate = "DONE"
    return found


def loses_what_was_resumed(found: Evidence) -> Evidence:
    by_id(found, "c.s.7").end = None
    return found


def goes_on_though_cancelled(found: Evidence) -> Evidence:
    late = [Call(20 + step, "s", f"c.s.8/{step}", 20 + step, False, 7.0) for step in range(2)]
    return replace(found, calls=[call for call in found.calls if not call.key.startswith("c.s.8/")] + late)


def takes_nothing_back(found: Evidence) -> Evidence:
    return replace(found, calls=[call for call in found.calls if call.key != "c.s.8/0/undone"])


def takes_the_oldest_back_first(found: Evidence) -> Evidence:
    first, last = found.calls[-1], found.calls[-2]
    return replace(found, calls=[*found.calls[:-2], replace(first, number=14), replace(last, number=15)])


def takes_back_what_was_not_cancelled(found: Evidence) -> Evidence:
    return replace(found, calls=[*found.calls, Call(16, "s", "c.s.7/1/undone", 16, False, 8.5)])


def cancels_unasked(found: Evidence) -> Evidence:
    by_id(found, "c.s.1").end = Answer("CANCELLED", "CANCELLED")
    return found


def is_early(found: Evidence) -> Evidence:
    found.states["s"].applied[8] = Applied("c later", 1, at=3.5)
    return found


def forgets_to_remind(found: Evidence) -> Evidence:
    found.states["s"].applied[6] = Applied("reminder c.s.1", 1, at=22.5)
    return found


def reminds_early(found: Evidence) -> Evidence:
    found.states["s"].applied[6] = Applied("reminder c.s.9", 1, at=21.0)
    return found


def applies_what_was_rejected(found: Evidence) -> Evidence:
    found.states["s"].applied.append(Applied("c", 10))
    return found


def never_ends(found: Evidence) -> Evidence:
    found.sent[0].end = None
    return found


def lists_no_letter(found: Evidence) -> Evidence:
    return replace(found, letters=[])


def applies_what_is_dead(found: Evidence) -> Evidence:
    found.states["s"].applied.append(Applied("c", 3))
    return found


def gives_up_without_cause(found: Evidence) -> Evidence:
    found.sent[3].end = Answer("DEAD", "WORKER_KILLED")
    found.sent[3].answers[:] = [found.sent[3].end]
    return replace(found, letters=[*found.letters, Letter("s", "c.s.4", "WORKER_KILLED")])


def loses_what_a_session_sent(found: Evidence) -> Evidence:
    found.states["t"].applied.clear()
    return found


def repeats_what_a_session_sent(found: Evidence) -> Evidence:
    found.states["t"].applied *= 2
    return found


def reorders(found: Evidence) -> Evidence:
    applied = found.states["s"].applied
    applied[0], applied[1] = applied[1], applied[0]
    return found


def answers_what_is_not_so(found: Evidence) -> Evidence:
    found.sent[0].answers[0] = found.sent[0].end = Answer("DONE", Reply(1, None).text())
    return found


def answers_twice(found: Evidence) -> Evidence:
    found.sent[0].answers.append(Answer("DEAD", "HOPELESS"))
    return found


def gives_a_key_two_results(found: Evidence) -> Evidence:
    return replace(found, calls=[*found.calls, Call(9, "s", "c.s.2/0", 9, False, 7.0)])


def has_a_result_that_nobody_gave(found: Evidence) -> Evidence:
    return replace(found, calls=[])


def applies_what_nobody_sent(found: Evidence) -> Evidence:
    found.states["t"].applied.append(Applied("c", 9))
    return found


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (forgets, "took no effect"),
        (applies_twice, "took effect 2 times"),
        (never_ends, "never came to an end"),
        (lists_no_letter, "no dead letter"),
        (applies_what_is_dead, "is DEAD and took effect"),
        (gives_up_without_cause, "gave no cause"),
        (loses_what_a_session_sent, "came 0 times"),
        (repeats_what_a_session_sent, "came 2 times"),
        (reorders, "was applied as [2, 1"),
        (answers_what_is_not_so, "its session has"),
        (answers_twice, "in different ways"),
        (gives_a_key_two_results, "has the results [7, 9]"),
        (has_a_result_that_nobody_gave, "was given []"),
        (applies_what_nobody_sent, "nobody sent"),
        (charges_twice, "not idempotent"),
        (lists_no_unknown_outcome, "no dead letter"),
        (gives_a_turn_another_value, "was given [40]"),
        (settles_a_promise_twice, "settled 2 times"),
        (goes_on_while_paused, "went on with"),
        (ends_while_paused, "stood at DONE"),
        (loses_what_was_resumed, "never came to an end"),
        (goes_on_though_cancelled, "went on with"),
        (takes_nothing_back, "took back ['c.s.8/1']"),
        (takes_the_oldest_back_first, "took back ['c.s.8/0', 'c.s.8/1']"),
        (takes_back_what_was_not_cancelled, "was not cancelled"),
        (cancels_unasked, "nobody asked for"),
        (is_early, "before it was due"),
        (forgets_to_remind, "never came"),
        (reminds_early, "came early"),
        (applies_what_was_rejected, "is REJECTED and took effect"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_history_that_is_wrong_is_found_so(wrong: Callable[[Evidence], Evidence], said: str) -> None:
    verdict = check(wrong(history()))

    assert not verdict.holds
    assert any(said in line for line in verdict.broken), verdict.broken


def test_nobody_need_have_heard_of_the_last_call_nor_who_settled_first() -> None:
    found = history()
    calls = [call for call in found.calls if call.key != "c.s.8/1/undone"]
    by_id(found, "c.s.6").settlements[0] = Settlement(40)

    assert check(replace(found, calls=calls)).broken == []


def test_what_was_not_taken_back_is_listed() -> None:
    found = history()
    calls = [call for call in found.calls if not call.key.endswith("undone")]
    letters = [*found.letters, Letter("s", "c.s.8", "NOT_COMPENSATED")]

    verdict = check(replace(found, calls=calls, letters=letters))

    assert (verdict.broken, verdict.left) == ([], 1)
    assert "took back []" in check(replace(found, calls=calls)).broken[0]
    assert not check(replace(takes_the_oldest_back_first(history()), letters=letters)).holds


def test_order_is_not_asked_of_what_was_redriven() -> None:
    found = reorders(history())
    found.sent[0].answers[:] = [Answer("DEAD", "WORKER_KILLED")]
    found.sent[0].end = Answer("DONE", Reply(1, None).text())
    found.sent[1].end = Answer("DONE", Reply(0, 7).text())
    found.sent[1].answers.clear()

    assert check(replace(found, redriven=frozenset({("s", "c", 1)}))).holds
    assert not check(found).holds


def test_what_was_redriven_has_two_ends_at_the_most() -> None:
    found = history()
    charge = by_id(found, "c.s.5")
    charge.answers[:] = [Answer("DEAD", "WORKER_KILLED"), Answer("DEAD", "UNKNOWN_OUTCOME")]
    redriven = replace(found, redriven=frozenset({charge.place}))

    assert check(redriven).broken == []
    assert not check(found).holds
    charge.answers.append(Answer("DEAD", "HOPELESS"))
    assert not check(redriven).holds


def test_a_seed_has_one_schedule_of_faults() -> None:
    for faults in (
        lambda seed: schedule.worker(seed, "w0"),
        lambda seed: schedule.control_plane(seed, "cp0"),
        lambda seed: schedule.lines(seed, "w0"),
        lambda seed: schedule.points(seed, "w0"),
        schedule.servers,
        schedule.one_process,
    ):
        first, again, other = (list(islice(faults(seed), 50)) for seed in (1, 1, 2))
        assert first == again != other


def test_every_fault_point_is_armed_before_long() -> None:
    armed = [one for some in islice(schedule.points(1, "w0"), len(fault_points.POINTS) + 2) for one in some.split(",")]

    assert {one.partition(":")[0] for one in armed} >= set(fault_points.POINTS)


@pytest.mark.parametrize("name", BREAKS)
def test_the_product_can_be_broken_in_each_way(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())

    broken(name, tmp_path)

    for change in BREAKS[name]:
        text = (tmp_path / "broken" / "troupe" / "dataplane" / change.file).read_text()
        if change.file.endswith(".py"):
            compile(text, change.file, "exec")
        assert text != (PACKAGE / "troupe" / "dataplane" / change.file).read_text()
