"""What happened, as only the simulation sees it, and what must never happen."""

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from troupe.broker.addressing import task_queue
from troupe.broker.port import DeadLetter, Delivery
from troupe.v1.envelope_pb2 import Envelope

SHORT = 0.15
"""Share of a delay by which it may be cut or drawn out: half of the largest step between two delay queues."""
SLACK = 0.1
"""Seconds, beside that."""


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt at one task. A redriven one begins anew."""

    task: str
    redrives: int
    attempt: int


@dataclass(slots=True)
class Deferral:
    """The wait before an attempt."""

    delay: float
    entered: float = float("inf")
    """When it stood in a delay queue."""
    troubles: int = 0
    """How many there had been by then; none that was over, or it does not count."""
    back: bool = False


@functools.lru_cache(1 << 14)
def tried(body: bytes) -> Try:
    """What a body is about; one that is no envelope is a task of its own."""
    try:
        envelope = Envelope.FromString(body)
    except DecodeError:
        return Try(repr(body), 0, 0)
    return Try(envelope.id, envelope.redrives, envelope.attempt)


class History:
    """One seed's."""

    def __init__(self, time: Callable[[], float], *, traced: bool = False) -> None:
        self.time, self._traced = time, traced
        self.violations: list[str] = []
        self.lines: list[str] = []
        self.counts: Counter[str] = Counter()
        self.pools: dict[str, str] = {}
        """Of each task."""
        self.accepted: set[str] = set()
        """Tasks that were confirmed to whoever published them."""
        self.done: set[str] = set()
        self.condemned: set[str] = set()
        """Tasks whose letters somebody purges."""
        self.excused: set[str] = set()
        """Tasks of which a fault may have made a copy."""
        self.copies: Counter[str] = Counter()
        self.longest_way = 0.0
        """Seconds that a message is on its way to the server at most."""
        self.mending = 0.0
        """Seconds that it takes to declare a queue again of which nobody noticed yet that it is gone."""
        self._returned: Counter[str] = Counter()
        self._deliveries: Counter[Try] = Counter()
        self._deferrals: dict[Try, Deferral] = {}
        self._troubles, self._troubled = 0, 0.0

    def log(self, line: str) -> None:
        if self._traced:
            self.lines.append(f"{self.time():9.3f} {line}")

    def violation(self, kind: str, what: str) -> None:
        self.log(f"VIOLATION {kind}: {what}")
        self.violations.append(f"{kind}: {what} (at {self.time():.3f})")

    def trouble(self, seconds: float) -> None:
        """Something befalls; for so long nothing need come in time."""
        self._troubles += 1
        self._troubled = max(self._troubled, self.time() + seconds)

    # The server

    def stored(self, body: bytes, queue: str) -> None:
        """A copy stands in a queue."""
        one = tried(body)
        self.copies[one.task] += 1
        self.log(f"{one.task}:{one.attempt} in {queue}")
        deferral = self._deferrals.get(one)
        if deferral is None:
            return
        now = self.time()
        if ".delay." in queue and deferral.entered == float("inf"):
            deferral.entered = now
            deferral.troubles = self._troubles if now > self._troubled else -1
        elif ".task." in queue and not deferral.back:
            deferral.back = True
            late = now - deferral.entered - deferral.delay * (1 + SHORT) - SLACK - self.mending - 4 * self.longest_way
            if late > 0 and deferral.troubles == self._troubles:
                self.violation("late", f"{one} was to come after {deferral.delay:.3f} s, and came {late:.3f} s late")

    def gone(self, body: bytes, queue: str) -> None:
        """A copy stands there no more."""
        task = tried(body).task
        self.copies[task] -= 1
        self.log(f"{task} out of {queue}")
        if self._lost(task):
            self.violation("lost", f"{task} went out of {queue}, and is nowhere")

    def returned(self, body: bytes, queue: str) -> None:
        """A delivery came to nothing, and comes again."""
        task = tried(body).task
        self._returned[task] += 1
        self.counts["returned"] += 1
        if ".dlq." not in queue:
            self.excused.add(task)

    def excuse(self, body: bytes) -> None:
        self.excused.add(tried(body).task)

    # Who publishes, works, and looks after letters

    def accepts(self, task: str) -> None:
        """Its publish was confirmed."""
        self.accepted.add(task)
        if self._lost(task):
            self.violation("lost", f"{task} was confirmed, and is nowhere")

    def defers(self, delivery: Delivery, delay: float) -> None:
        one = tried(delivery.body)
        again = Try(one.task, one.redrives, one.attempt + 1)
        known = self._deferrals.setdefault(again, Deferral(delay))
        known.delay = min(delay, known.delay)
        self.counts["deferred"] += 1
        self.log(f"{one.task}:{one.attempt} is put off by {delay:.3f} s")

    def delivers(self, host: str, delivery: Delivery) -> None:
        one = tried(delivery.body)
        self._deliveries[one] += 1
        self.counts["deliveries"] += 1
        self.log(f"{one.task}:{one.attempt} to {host}, {delivery.redeliveries} before")
        if delivery.queue != task_queue(self.pools.get(one.task, "")):
            self.violation("astray", f"{one} came out of {delivery.queue}")
        if delivery.redeliveries and one.task not in self._returned:
            self.violation("redelivered", f"{one}, which nobody gave back")
        if self._deliveries[one] > 1 and one.task not in self.excused:
            self.violation("twice", f"{one}, though nothing befell it")
        if one.attempt == 0:
            return
        deferral = self._deferrals.get(one)
        if deferral is None:
            self.violation("counted", f"{one}, which nobody put off")
            return
        waited = self.time() - deferral.entered
        if waited < deferral.delay * (1 - SHORT) - SLACK:
            self.violation("early", f"{one} was to come after {deferral.delay:.3f} s, and came after {waited:.3f}")

    def finishes(self, delivery: Delivery) -> None:
        """The task had its effect."""
        task = tried(delivery.body).task
        self.counts["done again" if task in self.done else "done"] += 1
        self.done.add(task)

    # The end

    def ends(self, letters: list[DeadLetter], reasons: Callable[[str], set[str]], limit: int) -> None:
        """Nothing happens any more. `reasons` tells for what a worker may have given up a task; the server does so
        where more than `limit` deliveries of it came to nothing."""
        dead = {tried(letter.body).task: letter for letter in letters}
        for task in sorted(self.accepted - self.done - self.condemned):
            letter = dead.get(task)
            if letter is None:
                self.violation("left", f"{task} is neither done nor given up")
        for task, letter in dead.items():
            by_server = letter.reason == "DELIVERY_LIMIT" and self._returned[task] > limit
            if not (by_server or letter.reason in reasons(task)) or not letter.error:
                self.violation("reason", f"{task} was given up for {letter.reason!r}: {letter.error!r}")
            self.counts[letter.reason] += 1

    def _lost(self, task: str) -> bool:
        return self.copies[task] == 0 and task in self.accepted - self.done - self.condemned
