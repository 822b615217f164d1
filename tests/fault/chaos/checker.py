"""What must hold of a history: each operation applied once, in its sender's order, and answered as it was. Pure."""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final

from fault.chaos.history import DONE, Answer, Evidence, Place, Sent
from fault.chaos.operations import UNORDERED, Applied, Kind, Reply, from_reminder, from_session, key_of, undone
from fault.chaos.recorder import Call

UNKNOWN: Final = "UNKNOWN_OUTCOME"
NOT_COMPENSATED: Final = "NOT_COMPENSATED"
CLOCK: Final = 0.01
"""Seconds by which times that are rounded may differ."""


@dataclass
class Verdict:
    """What the checker found. `broken` has a line for each violation, those that were lost or repeated among them."""

    settled: int = 0
    lost: int = 0
    repeated: int = 0
    unknown: int = 0
    """Listed as dead letters, because nobody can know whether they acted."""
    given_up: int = 0
    """Listed as dead letters for another reason, and without effect."""
    cancelled: int = 0
    taken_back: int = 0
    """Calls of those that were cancelled."""
    left: int = 0
    """Cancelled, and listed as dead letters because not all was taken back."""
    rejected: int = 0
    paused: int = 0
    """Held up by a PAUSE, until they were resumed."""
    broken: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not (self.lost or self.repeated or self.broken)


def check(evidence: Evidence) -> Verdict:
    """Read all of it."""
    verdict = Verdict()
    _Check(evidence, verdict).run()
    return verdict


class _Check:
    def __init__(self, evidence: Evidence, verdict: Verdict) -> None:
        self._evidence, self._verdict = evidence, verdict
        self._applied: defaultdict[Place, list[Applied]] = defaultdict(list)
        for session, state in evidence.states.items():
            for one in state.applied:
                self._applied[session, one.sender, one.number].append(one)
        self._reasons: defaultdict[str, set[str]] = defaultdict(set)
        for letter in evidence.letters:
            self._reasons[letter.message_id].add(letter.reason)
        self._calls: defaultdict[str, list[Call]] = defaultdict(list)
        for call in evidence.calls:
            self._calls[call.key].append(call)

    def run(self) -> None:
        for sent in self._evidence.sent:
            self._fate(sent)
            self._answers(sent)
            self._result(sent)
            self._turn(sent)
            self._undone(sent)
            self._time(sent)
        self._strangers()
        self._order()
        self._sends()
        self._keys()

    def _fate(self, sent: Sent) -> None:
        """It came to an end, and took effect as that end says."""
        verdict, times = self._verdict, len(self._applied[sent.place])
        if sent.end is None:
            verdict.lost += 1
            self._broken(sent, f"was {'accepted' if sent.accepted else 'sent'} and never came to an end")
            return
        verdict.settled += 1
        if times > 1:
            verdict.repeated += 1
            self._broken(sent, f"took effect {times} times")
        if sent.end.fate != DONE and times:
            verdict.repeated += 1
            self._broken(sent, f"is {sent.end.fate} and took effect")
        match sent.end.fate:
            case "DONE":
                self._done(sent, times)
            case "DEAD":
                self._dead(sent, sent.end)
            case "CANCELLED" if sent.operation.kind is Kind.CANCEL and sent.verbs and sent.verbs.binds:
                verdict.cancelled += 1
            case "REJECTED" if sent.operation.kind is Kind.EAGER:
                verdict.rejected += 1
            case fate:
                verdict.lost += 1
                self._broken(sent, f"ended {fate}, which nobody asked for")

    def _done(self, sent: Sent, times: int) -> None:
        if times == 0:
            self._verdict.lost += 1
            self._broken(sent, "is DONE and took no effect")
        if sent.operation.kind is Kind.HOPELESS:
            self._broken(sent, "cannot succeed and is DONE")

    def _dead(self, sent: Sent, end: Answer) -> None:
        verdict, kind = self._verdict, sent.operation.kind
        if end.text not in self._reasons[sent.message_id]:
            verdict.lost += 1
            self._broken(sent, f"is DEAD for {end.text}, and no dead letter says so")
        if kind is Kind.CHARGE and end.text == UNKNOWN:
            verdict.unknown += 1
        elif kind is Kind.HOPELESS and end.text == "HOPELESS":
            verdict.given_up += 1
        else:
            verdict.lost += 1
            self._broken(sent, f"is DEAD for {end.text}, which it gave no cause for")

    def _answers(self, sent: Sent) -> None:
        """All that clients were told of it is the same, and what the state says. One that was redriven may have been
        answered with its first end too, as a dead letter."""
        answers = set(sent.answers) | ({sent.end} if sent.end else set())
        done = {answer for answer in answers if answer.fate == DONE}
        if len(done) > 1 or len(answers) > (2 if sent.place in self._evidence.redriven else 1):
            self._broken(sent, f"was answered in different ways: {sorted(map(str, answers))}")
        for answer in done:
            reply = _reply(answer)
            applied = self._evidence.states[sent.session].applied
            told = None if reply is None or not 0 <= reply.place < len(applied) else applied[reply.place]
            said = None if told is None else (told.sender, told.number, told.result)
            if reply is None or said != (sent.operation.sender, sent.operation.number, reply.result):
                self._broken(sent, f"was answered {answer.text}, and its session has {told}")

    def _result(self, sent: Sent) -> None:
        """What it has of its last call, or of its promise, is what that was. A client may not have heard that it was
        the first to settle the promise."""
        operation = sent.operation
        if operation.kind is Kind.ASK:
            values = {each.value for each in sent.settlements if each.answer == "APPLIED"}
            if len(values) > 1:
                self._broken(sent, f"has a promise that was settled {len(values)} times: {sorted(values)}")
            values = values or {each.value for each in sent.settlements if not each.answer}
        elif operation.kind is Kind.RECORD or operation.steps:
            values = {call.result for call in self._calls[key_of(sent.message_id, max(0, operation.steps - 1))]}
        else:
            values = {None}  # type: ignore[arg-type]
        for one in self._applied[sent.place]:
            if {one.result} != values and not (operation.kind is Kind.ASK and one.result in values):
                self._broken(sent, f"has the result {one.result}, and was given {sorted(values)}")

    def _turn(self, sent: Sent) -> None:
        """What a verb was recorded for did not go on, and went on when it was resumed."""
        verbs = sent.verbs
        if verbs is None or not verbs.binds:
            return
        if sent.operation.kind is Kind.CANCEL and sent.end is not None and sent.end.fate != "CANCELLED":
            self._broken(sent, f"was cancelled ({verbs.answer}) and ended {sent.end.fate}")
        if sent.operation.kind is Kind.PAUSE:
            self._verdict.paused += 1
            if verbs.fate not in ("PAUSED", "UNSEEN", "WAITING", "RUNNING"):
                self._broken(sent, f"was paused ({verbs.answer}) and stood at {verbs.fate}")
        within = [one for one in self._applied[sent.place] if verbs.since + CLOCK < one.at < verbs.until - CLOCK]
        if within:
            self._broken(sent, f"took effect at {within[0].at}, while a verb bound it from {verbs.since} on")
        keys = (key_of(sent.message_id, step) for step in range(sent.operation.steps))
        began = [key for key in keys if self._calls[key] and verbs.since + CLOCK < self._calls[key][0].at < verbs.until]
        if len(began) > 1:
            self._broken(sent, f"went on with {began}, while a verb bound it from {verbs.since} on")

    def _undone(self, sent: Sent) -> None:
        """What it called was taken back where it was cancelled, newest first, and nowhere else. Of the last call nobody
        may have heard the result. Where it went on killing its workers the rest is listed for a person."""
        keys = [key_of(sent.message_id, step) for step in range(sent.operation.steps)]
        called = [key for key in keys if self._calls[key]]
        back = sorted((calls[0].number, key) for key in called if (calls := self._calls[undone(key)]))
        in_order = [key for _, key in back]
        if sent.end is None or sent.end.fate != "CANCELLED":
            if back:
                self._verdict.repeated += 1
                self._broken(sent, f"was not cancelled, and {in_order} were taken back")
            return
        self._verdict.taken_back += len(back)
        listed = NOT_COMPENSATED in self._reasons[sent.message_id]
        self._verdict.left += listed
        whole = (called[::-1], called[-2::-1])
        if in_order not in whole and not (listed and any(in_order == all_[: len(back)] for all_ in whole)):
            self._verdict.lost += 1
            self._broken(sent, f"was cancelled, called {called} and took back {in_order}")

    def _time(self, sent: Sent) -> None:
        """What was to come later did, and did not come early; a reminder came at least once."""
        operation = sent.operation
        for one in self._applied[sent.place]:
            if operation.kind is Kind.LATER and one.at < sent.at + operation.delay - CLOCK:
                self._broken(sent, f"took effect {sent.at + operation.delay - one.at:.3f} s before it was due")
            if operation.kind is not Kind.REMIND:
                continue
            reminded = self._applied[sent.session, from_reminder(sent.message_id), 1]
            if not reminded:
                self._verdict.lost += 1
                self._broken(sent, "set a reminder that never came")
            if any(each.at < one.at + operation.delay - CLOCK for each in reminded):
                self._broken(sent, "set a reminder that came early")

    def _strangers(self) -> None:
        """Nothing is applied that nobody sent."""
        known = {one.place for one in self._evidence.sent}
        insiders = (from_session(""), from_reminder(""))
        for place, applied in self._applied.items():
            if applied and place not in known and not place[1].startswith(insiders):
                self._verdict.broken.append(f"{place} was applied, and nobody sent it")

    def _order(self) -> None:
        """In each session what one sender sent stands in its order. Senders wait for the end of what met an error
        before they go on; what was redriven comes when it may."""
        for session, state in self._evidence.states.items():
            came: defaultdict[str, list[int]] = defaultdict(list)
            for one in state.applied:
                redriven = (session, one.sender, one.number) in self._evidence.redriven
                if not redriven and not one.sender.endswith(UNORDERED):
                    came[one.sender].append(one.number)
            for sender, numbers in came.items():
                if numbers != sorted(numbers) and not sender.startswith(from_reminder("")):
                    self._verdict.broken.append(f"{sender} to {session} was applied as {_disorder(numbers)}")

    def _sends(self) -> None:
        """What sessions sent each other came whole and once."""
        for source, state in self._evidence.states.items():
            for target, count in state.sent.items():
                times = Counter(
                    one.number for one in self._evidence.states[target].applied if one.sender == from_session(source)
                )
                self._verdict.settled += count
                for number in range(1, count + 1):
                    self._verdict.lost += times[number] == 0
                    self._verdict.repeated += times[number] > 1
                    if times[number] != 1:
                        said = f"number {number} from {source} came {times[number]} times to {target}"
                        self._verdict.broken.append(said)
                if strange := [number for number in times if number > count]:
                    self._verdict.broken.append(f"{source} never sent {strange}, which came to {target}")

    def _keys(self) -> None:
        """One result for each idempotency key, and one call of what is not idempotent."""
        for key, calls in self._calls.items():
            results = {call.result for call in calls}
            if len(results) > 1:
                self._verdict.repeated += 1
                what = "which is not idempotent, was called" if calls[0].once else "has the results"
                self._verdict.broken.append(f"key {key} {what} {sorted(results)}")

    def _broken(self, sent: Sent, what: str) -> None:
        self._verdict.broken.append(f"{sent.message_id} ({sent.operation.kind}, given to {sent.tries}) {what}")


def _reply(answer: Answer) -> Reply | None:
    try:
        return Reply.read(answer.text)
    except (json.JSONDecodeError, KeyError, TypeError):
        return None


def _disorder(numbers: list[int]) -> list[int]:
    """Around the first place that is out of order."""
    first = next(place for place in range(1, len(numbers)) if numbers[place] < numbers[place - 1])
    return numbers[max(0, first - 3) : first + 3]
