"""What happened in one run, and what must not have happened."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.dataplane.state.port import Owner

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
    passed: set[Number] = field(default_factory=set)
    numbers: dict[MessageKey, set[Number]] = field(default_factory=lambda: defaultdict(set))
    """Under which a message was started."""
    redriven: dict[MessageKey, int] = field(default_factory=lambda: defaultdict(int))
    """How often a dead letter of it was sent again."""
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
    _running: dict[tuple[SessionKey, Owner], str] = field(default_factory=dict)

    def log(self, line: str) -> None:
        if self.traced:
            self.lines.append(f"{self.now():9.3f} {line}")

    def violation(self, kind: str, what: str) -> None:
        self.log(f"!!! {kind}: {what}")
        self.violations.append(Violation(kind, what, self.now()))

    def begins(self, key: SessionKey, owner: Owner, message_id: str, number: Number) -> None:
        """A turn of the shard's owner, as the store's fence has it, begins."""
        self.counts["turns"] += 1
        self.numbers[key, message_id].add(number)
        if (other := self._running.get((key, owner))) is not None:
            self.violation("two turns at once", f"{message_id} began beside {other} in {key}")
        self._running[key, owner] = message_id
        self._in_order("start order", self._begun, key, number)

    def ended(self, key: SessionKey, owner: Owner) -> None:
        self._running.pop((key, owner), None)

    def step(self, key: SessionKey, message_id: str, payload: str, step: int) -> None:
        """A step that must not be done twice for one payload is done."""
        if (key, message_id, payload, step) in self.steps:
            self.violation("step twice", f"step {step} of {message_id} ({payload}) in {key}")
        self.steps.add((key, message_id, payload, step))

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
        self.done.add((key, message_id))
        self.effects[key].append(message_id)
        self._in_order("effect order", self._settled, key, number)

    def _in_order(self, kind: str, last: dict[tuple[SessionKey, str], int], key: SessionKey, number: Number) -> None:
        place = (key, number.stream)
        if number.sequence < last.get(place, 0) and number not in self.passed:
            self.violation(kind, f"{number.stream}:{number.sequence} after {last[place]} in {key}")
        last[place] = max(number.sequence, last.get(place, 0))
