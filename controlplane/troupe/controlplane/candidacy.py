"""Who leads, as a function of what was seen in the store and when: no clock, no store, no waiting.

The store holds one record of leadership, which the leader changes every `retry` seconds. A candidate takes over once
it has watched the record stand still for the lease, by its own clock: clocks of different machines are never compared.
The leader stops earlier than that, after the renew deadline. Neither is what keeps two from writing: each leader has a
term of its own, and the store refuses the writes of any but the last.
"""

from dataclasses import dataclass

from troupe.controlplane.stores.port import Leadership


@dataclass(frozen=True, slots=True)
class LeaderTimes:
    """In seconds. Raises ValueError unless retry < renew_deadline < lease."""

    lease: float = 15.0
    """The record must have stood still for this long before another takes over."""
    renew_deadline: float = 10.0
    """A leader that could not renew for this long stops."""
    retry: float = 2.0
    """Between two looks at the record, and two renewals."""

    def __post_init__(self) -> None:
        if not 0 < self.retry < self.renew_deadline < self.lease:
            raise ValueError("retry must be shorter than renew_deadline, and that shorter than lease")


@dataclass(frozen=True, slots=True)
class Take:
    """Lead, if `seen` is still what the store holds."""

    seen: Leadership


@dataclass(frozen=True, slots=True)
class Renew:
    """Give a sign of life, if `held` is still what the store holds."""

    held: Leadership


@dataclass(frozen=True, slots=True)
class Wait:
    """Look at the record again at this time."""

    until: float


@dataclass(frozen=True, slots=True)
class StepDown:
    """Stop writing now."""

    why: str


class Candidacy:
    """One process that leads, or would. `holder` is its name, which no other process has or had. Times are of its
    monotonic clock."""

    def __init__(self, holder: str, times: LeaderTimes) -> None:
        self._holder, self._times = holder, times
        self._since = self._renewed = 0.0
        self.seen: Leadership | None = None
        """The record when it was last seen; None before that."""
        self.held: Leadership | None = None
        """The record as this process wrote it last; None unless it leads."""

    @property
    def deadline(self) -> float | None:
        """When it must have renewed; None unless it leads."""
        return None if self.held is None else self._renewed + self._times.renew_deadline

    def saw(self, record: Leadership, now: float) -> Take | Renew | Wait | StepDown:
        """The store held `record` at some time before `now`, after the call that read it had begun."""
        if record != self.seen:
            self.seen, self._since = record, now
        if self.held is not None:
            if (record.term, record.holder) != (self.held.term, self.held.holder):
                return StepDown(f"{record.holder or 'nobody'} leads in term {record.term}")
            # A renewal whose reply was lost may stand in the record: it is the record that goes on, not what is held.
            return self._overdue(now) or Renew(record)
        if record.holder in ("", self._holder) or now >= self._since + self._times.lease:
            # Its own name, though it does not lead: it stopped, or the reply that made it the leader was lost. The
            # next term then keeps out whatever it sent in the one before.
            return Take(record)
        return Wait(min(now + self._times.retry, self._since + self._times.lease))

    def wrote(self, record: Leadership, begun: float, now: float) -> Wait | StepDown:
        """The store took `record` as this process' own, in a call that began at `begun`."""
        self.seen, self._since = record, now
        self.held, self._renewed = record, begun
        return self._overdue(now) or Wait(begun + self._times.retry)

    def refused(self, now: float) -> Wait | StepDown:
        """The record had changed before this process' call. A leader looks again at once: it was one of its own calls
        that was late, or it leads no more."""
        return self._overdue(now) or Wait(now + (0.0 if self.held is not None else self._times.retry))

    def failed(self, begun: float, now: float) -> Wait | StepDown:
        """The store could not be used, in a call that began at `begun`."""
        return self._overdue(now) or Wait(max(now, begun + self._times.retry))

    def stopped(self) -> None:
        """It does not lead any more."""
        self.held = None

    def _overdue(self, now: float) -> StepDown | None:
        if self.deadline is None or now < self.deadline:
            return None
        return StepDown(f"the store took no renewal for {self._times.renew_deadline:g} s")
