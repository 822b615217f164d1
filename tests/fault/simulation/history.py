"""What happened in one run, and what must not have happened."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.dataplane.behaviours.step_names import PROMISE, START
from troupe.dataplane.state.control import Control, Promise
from troupe.dataplane.state.session import Owner, Record

MessageKey = tuple[SessionKey, str]


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that the protocol promises never to happen."""

    kind: str
    what: str
    at: float

    def __str__(self) -> str:
        return f"{self.at:9.3f} {self.kind}: {self.what}"


@dataclass(slots=True)
class History:
    """Told by behaviours, clients and the store's scripts as it happens."""

    now: Callable[[], float]
    store_now: Callable[[], float] = lambda: 0.0
    """The store's clock, seconds since the epoch."""
    traced: bool = False
    lines: list[str] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    confirmed: set[MessageKey] = field(default_factory=set)
    cancelled: dict[MessageKey, float] = field(default_factory=dict)
    """When a CANCEL that binds was first recorded."""
    effects: dict[SessionKey, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Ids of messages settled DONE since the session was deleted last, in order."""
    done: set[MessageKey] = field(default_factory=set)
    steps: set[tuple[SessionKey, str, str, int]] = field(default_factory=set)
    taken_back: set[tuple[SessionKey, str, str, int]] = field(default_factory=set)
    killed: set[MessageKey] = field(default_factory=set)
    """A KILL that binds was recorded."""
    rejected: set[MessageKey] = field(default_factory=set)
    paused: dict[MessageKey, set[str]] = field(default_factory=lambda: defaultdict(set))
    """By which PAUSEs, not lifted yet."""
    held: dict[MessageKey, int] = field(default_factory=lambda: defaultdict(int))
    """How often it was paused."""
    settled: dict[MessageKey, tuple[int, bytes]] = field(default_factory=dict)
    """How the store has them: state and value."""
    verbs: dict[str, int] = field(default_factory=dict)
    """The first answer to each verb, by its id."""
    settlements: dict[str, int] = field(default_factory=dict)
    """To each settlement."""
    due: dict[MessageKey, float] = field(default_factory=dict)
    """Of what was scheduled, seconds since the epoch."""
    reminders: dict[tuple[SessionKey, str], str] = field(default_factory=dict)
    """By name: the stream of the reminder that was set last and not forgotten."""
    reminded: set[str] = field(default_factory=set)
    """Streams of reminders that came to a turn's end, at least once."""
    restarted: dict[MessageKey, MessageKey] = field(default_factory=dict)
    """By message that goes on: the one that it goes on for."""
    superseded: set[MessageKey] = field(default_factory=set)
    """Those that others go on for."""
    kept: set[tuple[SessionKey, str, int]] = field(default_factory=set)
    """Steps that they found done, or begun."""
    kept_promises: set[tuple[SessionKey, str, str]] = field(default_factory=set)
    """Names of promises that they found made."""
    from_step: dict[str, int] = field(default_factory=dict)
    """By the id of a RESTART."""
    passed: set[Number] = field(default_factory=set)
    numbers: dict[MessageKey, set[Number]] = field(default_factory=lambda: defaultdict(set))
    """Under which a message was started."""
    redriven: dict[MessageKey, int] = field(default_factory=lambda: defaultdict(int))
    """How often a dead letter of it was sent again."""
    records: dict[MessageKey, Record] = field(default_factory=dict)
    """The newest of each message, however long ago the store has forgotten it."""
    ends: dict[MessageKey, list[str]] = field(default_factory=lambda: defaultdict(list))
    """All that its records ever said."""
    posted: dict[Number, MessageKey] = field(default_factory=dict)
    """What committed turns sent, and to whom."""
    kills: dict[MessageKey, int] = field(default_factory=lambda: defaultdict(int))
    answers: list[tuple[MessageKey, str, str]] = field(default_factory=list)
    """What clients were told of a message's end: payload they sent, and the end as text."""
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _begun: dict[tuple[SessionKey, str], int] = field(default_factory=dict)
    _settled: dict[tuple[SessionKey, str], int] = field(default_factory=dict)
    _running: dict[tuple[SessionKey, Owner], tuple[str, Number]] = field(default_factory=dict)

    def log(self, line: str) -> None:
        if self.traced:
            self.lines.append(f"{self.now():9.3f} {line}")

    def violation(self, kind: str, what: str) -> None:
        self.log(f"!!! {kind}: {what}")
        self.violations.append(Violation(kind, what, self.now()))

    def begins(self, key: SessionKey, owner: Owner, messages: Sequence[tuple[str, Number]]) -> None:
        """A turn of the shard's owner, as the store's fence has it, begins."""
        self.counts["turns"] += 1
        if (other := self._running.get((key, owner))) is not None:
            self.violation("two turns at once", f"{messages} began beside {other[0]} in {key}")
        self._running[key, owner] = messages[0]
        # What comes with the first of a batch may have to start again by itself, after the first.
        self._in_order("start order", self._begun, key, messages[0][1])
        for message_id, number in messages:
            self.numbers[key, message_id].add(number)
            self._not_early(key, message_id)

    def ended(self, key: SessionKey, owner: Owner) -> None:
        self._running.pop((key, owner), None)

    def running(self, key: SessionKey, message_id: str) -> Iterator[tuple[Owner, Number]]:
        """Who runs the message, and under which number."""
        for (session, owner), (running, number) in self._running.items():
            if (session, running) == (key, message_id):
                yield owner, number

    def step(self, key: SessionKey, message_id: str, payload: str, step: int) -> None:
        """A step that must not be done twice for one payload is done."""
        if (key, message_id, step) in self.kept:
            self.violation("kept step again", f"step {step} of {message_id} in {key}")
        if (key, message_id, payload, step) in self.steps:
            self.violation("step twice", f"step {step} of {message_id} ({payload}) in {key}")
        self.steps.add((key, message_id, payload, step))
        if self.paused[key, message_id]:
            self.counts["steps beside a pause"] += 1

    def compensates(self, key: SessionKey, message_id: str, payload: str, step: int) -> None:
        """A step is taken back."""
        self.counts["compensations"] += 1
        if (key, message_id, payload, step) in self.taken_back:
            self.violation("taken back twice", f"step {step} of {message_id} in {key}")
        if (key, message_id) not in self.cancelled or (key, message_id) in self.superseded:
            self.violation("taken back without a cancel", f"step {step} of {message_id} in {key}")
        self.taken_back.add((key, message_id, payload, step))

    def asks(self, key: SessionKey, message_id: str, name: str) -> None:
        """A turn makes a promise."""
        self.counts["promises"] += 1
        if (key, message_id, name) in self.kept_promises:
            self.violation("kept promise asked for again", f"{name} of {message_id} in {key}")

    def sees(self, key: SessionKey, promise_id: str, promise: Promise) -> None:
        """A turn goes on with what the promise came to."""
        settled = self.settled.get((key, promise_id))
        if settled != (promise.state, promise.value):
            self.violation("sees another value", f"{promise_id} in {key} is {settled}, and the turn saw {promise}")
        self.counts["promises seen"] += 1

    def settles(self, key: SessionKey, promise_id: str, state: int, value: bytes) -> None:
        """The store has the promise's end."""
        self.log(f"PROMISE {promise_id} in {key} is {state} {value!r}")
        before = self.settled.setdefault((key, promise_id), (state, value))
        if before != (state, value):
            self.violation("settled twice", f"{promise_id} in {key} was {before} and became {(state, value)}")

    def schedules(self, key: SessionKey, message_id: str, due: float) -> None:
        """A message stands on the schedule."""
        self.log(f"SCHEDULED {message_id} in {key} for {due}")
        self.counts["scheduled"] += 1

    def pauses(self, key: SessionKey, message_id: str, verb_id: str) -> None:
        self.counts["paused"] += 1
        self.held[key, message_id] += 1
        self.paused[key, message_id].add(verb_id)

    def resumes(self, key: SessionKey, message_id: str, lifts: str) -> None:
        self.paused[key, message_id] = self.paused[key, message_id] - {lifts} if lifts else set()

    def restarts(self, key: SessionKey, control: Control, journal: Mapping[str, bytes]) -> None:
        """Another message goes on for this one, which has done what the journal says."""
        if control.restart is None:
            self.violation("restarted as nothing", f"{control}")
            return
        new_id, step = control.restart.entry.message_id, self.from_step[control.verb_id]
        self.log(f"RESTARTED {control.message_id} in {key} as {new_id} from {step}")
        self.counts["restarted"] += 1
        self.restarted[key, new_id] = (key, control.message_id)
        self.superseded.add((key, control.message_id))
        self.kept |= {(key, new_id, each) for each in range(step) if f"{START}{each}" in journal}
        made = {name: content for name, content in journal.items() if name.startswith(PROMISE)}
        kept = {name.removeprefix(PROMISE) for name, content in made.items() if int(content) < step}
        self.kept_promises |= {(key, new_id, name) for name in kept}
        self.confirmed.add((key, new_id))

    def _not_early(self, key: SessionKey, message_id: str) -> None:
        if self.store_now() < self.due.get((key, message_id), 0.0):
            self.violation("early", f"{message_id} in {key} was due at {self.due[key, message_id]}")

    def post(self, key: SessionKey, message_id: str, number: Number) -> None:
        """A commit left a message for this session in the outbox."""
        self.log(f"POSTED {message_id} {number.stream}:{number.sequence} to {key}")
        self.counts["posted"] += 1
        if number in self.posted:
            self.violation("number given out twice", f"{number} to {key}")
        self.posted[number] = (key, message_id)
        self.confirmed.add((key, message_id))

    def effect(self, key: SessionKey, message_id: str, number: Number) -> None:
        """A commit settled the message DONE."""
        self.log(f"DONE {message_id} {number.stream}:{number.sequence} in {key}")
        if (key, message_id) in self.done:
            self.violation("effect twice", f"{message_id} in {key}")
        if (key, message_id) in self.cancelled:
            self.violation("effect after cancel", f"{message_id} in {key}")
        if (key, message_id) in self.rejected:
            self.violation("effect of what was rejected", f"{message_id} in {key}")
        if self.paused[key, message_id]:
            self.violation("effect while paused", f"{message_id} in {key}")
        self._not_early(key, message_id)
        self.done.add((key, message_id))
        self.effects[key].append(message_id)
        self._in_order("effect order", self._settled, key, number)

    def _in_order(self, kind: str, last: dict[tuple[SessionKey, str], int], key: SessionKey, number: Number) -> None:
        place = (key, number.stream)
        if number.sequence < last.get(place, 0) and number not in self.passed:
            self.violation(kind, f"{number.stream}:{number.sequence} after {last[place]} in {key}")
        last[place] = max(number.sequence, last.get(place, 0))
