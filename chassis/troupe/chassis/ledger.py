"""The split by cause of a message's time. Pure: intervals in, rows out.

Each instant of the wall time belongs to exactly one cause. Where causes overlap, the one that stands first in
`PRECEDENCE` has the instant; what none claims is `residual`, which is never negative. So the rows and the residual
sum to the wall time, whatever the intervals are.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from google.protobuf.duration_pb2 import Duration

from troupe.chassis.wire import NANOS
from troupe.v1 import turn_pb2
from troupe.v1.turn_pb2 import LedgerCause

PRECEDENCE = (
    turn_pb2.LEDGER_CAUSE_TOOL,
    turn_pb2.LEDGER_CAUSE_MODEL_STREAMING,
    turn_pb2.LEDGER_CAUSE_CONNECT,
    turn_pb2.LEDGER_CAUSE_MODEL_FIRST_TOKEN,
    turn_pb2.LEDGER_CAUSE_MODEL_QUEUE,
    turn_pb2.LEDGER_CAUSE_STATE_STORE,
    turn_pb2.LEDGER_CAUSE_PROMISE,
    turn_pb2.LEDGER_CAUSE_PAUSE,
    turn_pb2.LEDGER_CAUSE_MAILBOX_WAIT,
    turn_pb2.LEDGER_CAUSE_BROKER_WAIT,
)
"""First claim wins: what the turn was for before what it waited for, a part before the whole that holds it."""

_RANK = {cause: rank for rank, cause in enumerate(PRECEDENCE)}


class Interval(NamedTuple):
    """A cause claims the time from `start` to `end`, in seconds on one clock."""

    cause: LedgerCause.ValueType
    start: float
    end: float


@dataclass(slots=True)
class Ledger:
    """Collects the intervals of one message; `split` answers where its time went."""

    intervals: list[Interval] = field(default_factory=list)

    def add(self, cause: LedgerCause.ValueType, start: float, end: float) -> None:
        self.intervals.append(Interval(cause, start, end))

    def share(self, other: "Ledger", since: float) -> None:
        """What `other` claims from `since` on is claimed here too."""
        self.intervals += [interval for interval in other.intervals if interval.start >= since]

    def split(self, start: float, end: float) -> turn_pb2.Ledger:
        """The time from `start` to `end` by cause, in whole nanoseconds, longest first. Rows and residual sum to the
        wall time exactly."""
        wall = _nanoseconds(start, end)
        claimed = _claimed(self.intervals, start, end)
        ledger = turn_pb2.Ledger()
        _set(ledger.wall, wall)
        _set(ledger.residual, wall - sum(claimed.values()))
        for nanoseconds, cause in sorted((-nanoseconds, cause) for cause, nanoseconds in claimed.items()):
            _set(ledger.rows.add(cause=cause).duration, -nanoseconds)
        return ledger


def attribute(intervals: Iterable[Interval], start: float, end: float) -> dict[LedgerCause.ValueType, float]:
    """Seconds of [start, end] by cause; each instant counts once, for the claim of highest precedence. Causes that
    have no nanosecond are left out."""
    return {cause: nanoseconds / 1e9 for cause, nanoseconds in _claimed(intervals, start, end).items()}


def _claimed(intervals: Iterable[Interval], start: float, end: float) -> dict[LedgerCause.ValueType, int]:
    """Nanoseconds of [start, end] by cause. The edges are rounded, not the sums: whole numbers add up exactly."""
    claims = []
    for cause, first, last in intervals:
        begins, ends = _nanoseconds(start, first), _nanoseconds(start, min(last, end))
        if ends > begins:
            claims.append((begins, ends, _RANK[cause]))
    claims.sort()
    claimed: dict[LedgerCause.ValueType, int] = {}
    reached = 0
    for begins, ends, rank in claims:
        if begins < reached:
            return _contested(claims)
        reached = ends
        cause = PRECEDENCE[rank]
        claimed[cause] = claimed.get(cause, 0) + ends - begins
    return claimed


def _contested(claims: Iterable[tuple[int, int, int]]) -> dict[LedgerCause.ValueType, int]:
    """The same where claims, each from, to and rank, overlap."""
    edges = [edge for first, last, rank in claims for edge in ((first, 1, rank), (last, -1, rank))]
    active: list[int] = []
    claimed: defaultdict[LedgerCause.ValueType, int] = defaultdict(int)
    previous = 0
    for at, change, rank in sorted(edges):
        if active and at > previous:
            claimed[PRECEDENCE[min(active)]] += at - previous
        previous = at
        if change > 0:
            active.append(rank)
        else:
            active.remove(rank)
    return claimed


def _set(duration: Duration, nanoseconds: int) -> None:
    duration.seconds, duration.nanos = divmod(nanoseconds, NANOS)


def _nanoseconds(start: float, end: float) -> int:
    return round((end - start) * 1e9) if end > start else 0
