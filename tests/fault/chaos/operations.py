"""What the driver asks sessions to do, and what they say of it. Pure."""

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from random import Random
from typing import Any, Final

ACTOR, BATCHES = "tally", "heap"
"""Two actors: one takes its messages one by one, the other all that wait at once."""
READ: Final = "read"
"""The text that asks a session for all that it has applied; it changes nothing."""
PROMISE: Final = "value"
"""The name of the promise that an ASK makes."""


class Kind(StrEnum):
    """What an operation does beside being applied."""

    NOTE = "note"
    """Nothing."""
    RECORD = "record"
    """It calls the recorder by itself, under an idempotency key, as often as it is run."""
    SEND = "send"
    """It sends a note to other sessions."""
    FLAKY = "flaky"
    """Its first attempts fail, and are tried again."""
    HOPELESS = "hopeless"
    """It can never succeed: a dead letter."""
    CALL = "call"
    """It makes journaled calls of an idempotent tool, one after the other."""
    CHARGE = "charge"
    """It makes one journaled call of a tool that is not idempotent, and may fail after it."""
    ASK = "ask"
    """It waits for a promise, which two clients settle at once."""
    PAUSE = "pause"
    """As CALL; a client pauses it, and resumes it."""
    CANCEL = "cancel"
    """As CALL, with calls that can be taken back; a client cancels it."""
    LATER = "later"
    """It is sent to be delivered after a while."""
    REMIND = "remind"
    """It sets a reminder."""
    EAGER = "eager"
    """It does not wait where its session is busy: it is REJECTED."""


SHARES: Final = {
    Kind.NOTE: 8,
    Kind.RECORD: 4,
    Kind.SEND: 6,
    Kind.FLAKY: 2,
    Kind.HOPELESS: 1,
    Kind.CALL: 4,
    Kind.CHARGE: 6,
    Kind.ASK: 3,
    Kind.PAUSE: 2,
    Kind.CANCEL: 2,
    Kind.LATER: 3,
    Kind.REMIND: 2,
    Kind.EAGER: 2,
}
"""How many of each kind, in proportion."""
IN_BATCHES: Final = (Kind.NOTE, Kind.SEND, Kind.LATER, Kind.EAGER)
"""What a turn that takes a batch can do."""
STEPS: Final = {Kind.CALL: (1, 3), Kind.CHARGE: (1, 1), Kind.PAUSE: (3, 6), Kind.CANCEL: (3, 6)}
"""The fewest and the most calls that it makes."""
SECONDS: Final = {Kind.PAUSE: (0.05, 0.15), Kind.CANCEL: (0.05, 0.15), Kind.CHARGE: (0.0, 0.0, 0.02, 0.2, 1.5)}
"""How long its attempts may take. Some charges take so long that a worker which was stopped and another one, which has
its shard by then, are both about to make them."""
UNORDERED: Final = " later"
"""What the name of a sender ends with whose messages have no order."""


@dataclass(frozen=True, slots=True)
class Operation:
    """The `number`th message of a sender to a session, from 1 on."""

    sender: str
    number: int
    kind: Kind = Kind.NOTE
    seconds: float = 0.0
    """How long each attempt takes before it does anything, and each call after it was made."""
    fails: int = 0
    """Attempts that fail, after the calls."""
    targets: tuple[str, ...] = ()
    """Sessions that it sends to."""
    steps: int = 0
    """Calls that it makes."""
    delay: float = 0.0
    """Seconds until it is delivered, or until its reminder comes."""

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> "Operation":
        found = json.loads(text)
        return cls(**{**found, "kind": Kind(found["kind"]), "targets": tuple(found["targets"])})


def drawn(dice: Random, kind: Kind, sender: str, number: int, sessions: list[str]) -> Operation:
    """Any operation of this kind."""
    fails = {Kind.FLAKY: (1, 2), Kind.CHARGE: (0, 0, 1)}.get(kind, (0,))
    return Operation(
        sender,
        number,
        kind,
        seconds=dice.choice(SECONDS.get(kind, (0.0, 0.0, 0.0, 0.02, 0.2))),
        fails=dice.choice(fails),
        targets=tuple(dice.choice(sessions) for _ in range(2)) if kind is Kind.SEND else (),
        steps=dice.randint(*STEPS.get(kind, (0, 0))),
        delay=dice.uniform(0.5, 3.0) if kind in (Kind.LATER, Kind.REMIND) else 0.0,
    )


def drawn_kind(dice: Random, session: str) -> Kind:
    """What may be asked of this session."""
    kinds = IN_BATCHES if agent_of(session) == BATCHES else tuple(SHARES)
    return dice.choices(kinds, [SHARES[kind] for kind in kinds])[0]


def agent_of(session: str) -> str:
    """Whose session it is, by its name."""
    return BATCHES if session.startswith("b") else ACTOR


def key_of(message_id: str, step: int) -> str:
    """The idempotency key of one call."""
    return f"{message_id}/{step}"


def undone(key: str) -> str:
    """The idempotency key under which the call of this one is taken back."""
    return f"{key}/undone"


@dataclass(frozen=True, slots=True)
class Applied:
    """One operation that took effect."""

    sender: str
    number: int
    result: int | None = None
    """What the last call was answered with, or the promise's value."""
    at: float = 0.0
    """When its attempt did so, in seconds since the epoch."""


@dataclass
class State:
    """A session's: what it applied, in order, and how much it has sent to each other session."""

    applied: list[Applied] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str | bytes) -> "State":
        if not text:
            return cls()
        found = json.loads(text)
        return cls([Applied(*one) for one in found["applied"]], found["sent"])

    def text(self) -> str:
        applied = [[one.sender, one.number, one.result, round(one.at, 3)] for one in self.applied]
        return json.dumps({"applied": applied, "sent": self.sent}, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Reply:
    """What a session answers: where in its list the operation stands, from 0 on, and the result."""

    place: int
    result: int | None

    @classmethod
    def read(cls, text: str) -> "Reply":
        found: dict[str, Any] = json.loads(text)
        return cls(found["place"], found["result"])

    def text(self) -> str:
        return json.dumps({"place": self.place, "result": self.result})


def from_session(session: str) -> str:
    """The sender that a session is to those that it sends to."""
    return f"session {session}"


def from_reminder(message_id: str) -> str:
    """The sender of the reminder that this message set."""
    return f"reminder {message_id}"
