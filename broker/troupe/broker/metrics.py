"""What a broker counts, and how full its mailboxes are."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

from prometheus_client import Counter, Gauge, Histogram

from troupe.broker.port import MailboxFull

MAX_REASONS = 100
"""Reasons of failures that are told apart: tools and actors invent reasons, and labels must have a bound."""

DELIVERIES = Counter("troupe_broker_deliveries_total", "Messages handed to consumers, repeats included.")
REDELIVERIES = Counter("troupe_broker_redeliveries_total", "Deliveries that were, or may have been, made before.")
ACKS = Counter("troupe_broker_acks_total", "Deliveries acked.")

_PUBLISHES = Counter("troupe_broker_publishes_total", "Messages that a broker was asked to carry.")
_CONFIRMS = Counter("troupe_broker_confirms_total", "Messages that cannot be lost any more.")
_FAILURES = Counter(
    "troupe_broker_publish_failures_total",
    "Publishes without a confirm: `full`, not sent; `cancelled` and `unavailable`, outcome unknown.",
    ["kind"],
)
_CONFIRM_SECONDS = Histogram(
    "troupe_broker_confirm_seconds",
    "From publish to confirm.",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)
_DEAD_LETTERS = Counter("troupe_broker_dead_letters_total", "Messages given up, by reason.", ["reason"])
_MESSAGES = Gauge("troupe_broker_mailbox_messages", "Messages in a mailbox, delivered and unacked included.", ["queue"])

_reasons: set[str] = set()


@contextlib.contextmanager
def publishing() -> Iterator[None]:
    """Counts one publish, and how it ends."""
    _PUBLISHES.inc()
    began = time.perf_counter()
    try:
        yield
    except MailboxFull:
        _FAILURES.labels("full").inc()
        raise
    except asyncio.CancelledError:
        _FAILURES.labels("cancelled").inc()
        raise
    except Exception:
        _FAILURES.labels("unavailable").inc()
        raise
    _CONFIRMS.inc()
    _CONFIRM_SECONDS.observe(time.perf_counter() - began)


def dead_lettered(reason: str) -> None:
    """Counts a letter that was kept."""
    _DEAD_LETTERS.labels(bounded(reason)).inc()


def bounded(reason: str) -> str:
    """The reason as a label: from MAX_REASONS on, new ones are OTHER."""
    if len(_reasons) < MAX_REASONS:
        _reasons.add(reason)
    return reason if reason in _reasons else "OTHER"


def show_depth(queue: str, depth: Callable[[], int]) -> None:
    """Ask `depth` at each scrape, on the scraper's thread."""
    _MESSAGES.labels(queue).set_function(depth)


def hide_depth(queue: str) -> None:
    _MESSAGES.remove(queue)
