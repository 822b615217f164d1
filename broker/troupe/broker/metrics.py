"""What a broker counts, and how full its queues are. All backends use these names."""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType

from prometheus_client import Counter, Gauge, Histogram

from troupe.broker.port import NotSent

MAX_REASONS = 100
"""Reasons of failures that are told apart: tools and actors invent reasons, and labels must have a bound."""
MAX_ATTEMPTS = 10
"""Attempts of deferred messages that are told apart; beyond, they count as this one."""

PUBLISHES = Counter("troupe_broker_publishes_total", "Messages that a broker was asked to carry.")
CONFIRMS = Counter("troupe_broker_confirms_total", "Messages that cannot be lost any more.")
CONFIRM_SECONDS = Histogram(
    "troupe_broker_confirm_seconds",
    "From publish to confirm. Messages published together count once.",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)
RETURNS = Counter("troupe_broker_returns_total", "Messages that a server sent back because no queue took them.")
NACKS = Counter("troupe_broker_nacks_total", "Messages that a server refused.")
DELIVERIES = Counter("troupe_broker_deliveries_total", "Messages handed to consumers, repeats included.")
REDELIVERIES = Counter("troupe_broker_redeliveries_total", "Deliveries that were, or may have been, made before.")
ACKS = Counter("troupe_broker_acks_total", "Deliveries acked.")
RECONNECTS = Counter("troupe_broker_reconnects_total", "Connections to a server that were made anew.")

_FAILURES = Counter(
    "troupe_broker_publish_failures_total",
    "Messages without a confirm: `not_sent`; `cancelled` and `unavailable`, outcome unknown.",
    ["kind"],
)
_FAILED = {kind: _FAILURES.labels(kind) for kind in ("not_sent", "cancelled", "unavailable")}
_DEFERRALS = Counter(
    "troupe_broker_deferrals_total",
    f"Messages of task queues put off, by the attempt that failed, from 0; {MAX_ATTEMPTS} stands for all beyond.",
    ["attempt"],
)
_DEFERRED = [_DEFERRALS.labels(str(attempt)) for attempt in range(MAX_ATTEMPTS + 1)]
_DEAD_LETTERS = Counter("troupe_broker_dead_letters_total", "Messages given up, by reason.", ["reason"])
_IN_FLIGHT = Gauge("troupe_broker_in_flight_messages", "Messages that were published and wait for their confirm.")
_MESSAGES = Gauge(
    "troupe_broker_queue_messages",
    "Messages in a queue, delivered and unacked included, put off ones not.",
    ["queue"],
)
_OLDEST = Gauge(
    "troupe_broker_queue_oldest_seconds", "Age of the oldest message in a queue; 0 where it is empty.", ["queue"]
)

_reasons: set[str] = set()


class Publishing:
    """Counts `messages` that are published together, and how that ends: leave the block with the confirm, or with
    what was raised. Costs about two microseconds."""

    __slots__ = ("_began", "_messages")

    waiting = 0
    """Messages of this process that wait for their confirm."""

    def __init__(self, messages: int = 1) -> None:
        self._messages = messages

    def __enter__(self) -> None:
        PUBLISHES.inc(self._messages)
        Publishing.waiting += self._messages
        self._began = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        Publishing.waiting -= self._messages
        if error is None:
            CONFIRMS.inc(self._messages)
            CONFIRM_SECONDS.observe(time.perf_counter() - self._began)
        elif isinstance(error, NotSent):
            _FAILED["not_sent"].inc(self._messages)
        elif isinstance(error, asyncio.CancelledError):
            _FAILED["cancelled"].inc(self._messages)
        else:
            _FAILED["unavailable"].inc(self._messages)


_IN_FLIGHT.set_function(lambda: Publishing.waiting)


def deferred(attempt: int) -> None:
    """Counts a message put off whose `attempt`, from 0, failed."""
    _DEFERRED[min(attempt, MAX_ATTEMPTS)].inc()


def dead_lettered(reason: str) -> None:
    """Counts a letter that was kept."""
    _DEAD_LETTERS.labels(bounded(reason)).inc()


def bounded(reason: str) -> str:
    """The reason as a label: from MAX_REASONS on, new ones are OTHER."""
    if len(_reasons) < MAX_REASONS:
        _reasons.add(reason)
    return reason if reason in _reasons else "OTHER"


def show_queue(
    queue: str, messages: Callable[[], float], oldest: Callable[[], float | None], now: Callable[[], float]
) -> None:
    """Ask `messages` and `oldest`, the time when its oldest message was published, at each scrape, on the scraper's
    thread. Both must answer at once, with what is known."""

    def age() -> float:
        since = oldest()
        return 0.0 if since is None else max(0.0, now() - since)

    _MESSAGES.labels(queue).set_function(messages)
    _OLDEST.labels(queue).set_function(age)


def hide_queue(queue: str) -> None:
    _MESSAGES.remove(queue)
    _OLDEST.remove(queue)
