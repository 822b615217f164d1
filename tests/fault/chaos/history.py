"""What was sent, answered, applied and recorded: the evidence that the checker reads. Pure, but for `written`."""

import json
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path

from fault.chaos.operations import Operation, State
from fault.chaos.recorder import Call

DONE, DEAD = "DONE", "DEAD"
Place = tuple[str, str, int]
"""Session, sender and number of an operation: those that sessions send each other have one too."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client was told of a message's end."""

    fate: str
    """DONE, DEAD, …"""
    text: str
    """The reply of a message that is DONE, else the reason."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a client gave a promise, and what it was answered: APPLIED, DUPLICATE, …; nothing, where it was not."""

    value: int
    answer: str = ""


@dataclass(slots=True)
class Verbs:
    """What a client did to the turn of its message. Times are in seconds since the epoch."""

    answer: str
    """To PAUSE or CANCEL: APPLIED, TOO_LATE, …"""
    since: float
    """When that answer came."""
    until: float = inf
    """When RESUME was sent."""
    fate: str = ""
    """Of the message, before that."""
    resume: str = ""
    """What RESUME was answered."""

    @property
    def binds(self) -> bool:
        return self.answer in ("APPLIED", "PENDING")


@dataclass(slots=True)
class Sent:
    """One operation, as its sender knows it. `tries` are the gateways that it was given to, the first one at `at`, in
    seconds since the epoch."""

    message_id: str
    session: str
    operation: Operation
    tries: list[str] = field(default_factory=list)
    at: float = 0.0
    took: float = 0.0
    """Seconds from then until its sender knew its end."""
    accepted: bool = False
    answers: list[Answer] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)
    verbs: Verbs | None = None
    end: Answer | None = None
    """The answer after the storm."""

    @property
    def place(self) -> Place:
        return self.session, self.operation.sender, self.operation.number


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter."""

    session: str
    message_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """All of it."""

    sent: list[Sent]
    states: dict[str, State]
    """What each session has applied in the end."""
    calls: list[Call]
    letters: list[Letter]
    """All that ever stood in the pool, those that were redriven included."""
    redriven: frozenset[Place] = frozenset()

    def written(self, directory: Path) -> None:
        """Write it down, one JSON object a line."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, lines in (
            ("sent", [asdict(one) for one in self.sent]),
            ("states", [{"session": name, **asdict(state)} for name, state in self.states.items()]),
            ("calls", [asdict(call) for call in self.calls]),
            ("letters", [asdict(letter) for letter in self.letters]),
        ):
            (directory / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
