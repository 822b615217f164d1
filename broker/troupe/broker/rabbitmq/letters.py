"""A dead letter as a message: its fields are headers, its body is the body as it was delivered. Pure.

A letter that the server wrote, when a message passed its queue's delivery limit, has none of them: what can be known
of it is read from its body and from what the server says of its death: not, for one, how often it was tried."""

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime

from troupe.broker import envelope
from troupe.broker.addressing import SessionKey
from troupe.broker.port import DeadLetter

_PREFIX = "troupe-"
_MAX_TEXT = 8_192
"""Bytes of one field that travel: all headers must fit one frame."""
_TEXTS = ("message_id", "session", "reason", "error", "worker_id", "revision_id", "trace_id")
_TIMES = ("first_failed", "last_failed")
"""Travel as text: pika writes no floating point numbers."""
_YEAR_10000 = 253_402_300_800
"""Seconds since the epoch; what shows times knows none after it."""
_REASONS = {"delivery_limit": "DELIVERY_LIMIT", "expired": "EXPIRED", "rejected": "REJECTED", "maxlen": "QUEUE_FULL"}

assert {"id", "body", "pool", *_TEXTS, "attempts", *_TIMES} == {each.name for each in fields(DeadLetter)}


def headers(letter: DeadLetter) -> dict[str, object]:
    """All fields but the id, which is the message's, the body, and the pool, which is its routing key."""
    return {
        **{_PREFIX + name: _storable(getattr(letter, name)) for name in _TEXTS},
        **{_PREFIX + name: repr(getattr(letter, name)) for name in _TIMES},
        _PREFIX + "attempts": letter.attempts,
    }


def read(pool: str, body: bytes, found: Mapping[str, object], message_id: str | None, published: float) -> DeadLetter:
    """The letter in a message of `pool`'s dead letters. `published`, seconds since the epoch, is when it got there,
    where nothing better is known."""
    if _PREFIX + "reason" not in found or message_id is None:
        return _of_server(pool, body, found, published)
    texts = {name: _text(found.get(_PREFIX + name)) for name in _TEXTS}
    first, last = (_time(found.get(_PREFIX + name), published) for name in _TIMES)
    attempts = _count(found.get(_PREFIX + "attempts"))
    return DeadLetter(
        id=message_id, body=body, pool=pool, attempts=attempts, first_failed=first, last_failed=last, **texts
    )


def _of_server(pool: str, body: bytes, found: Mapping[str, object], published: float) -> DeadLetter:
    deaths = found.get("x-death")
    death = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
    # The latest death comes first in the list. That of a message that was deferred before is its delay's end.
    why = _text(death.get("reason") or found.get("x-first-death-reason")) or "unknown"
    at = death.get("time")
    when = at.replace(tzinfo=UTC).timestamp() if isinstance(at, datetime) else published
    queue = _text(death.get("queue") or found.get("x-first-death-queue"))
    message, session, trace = _named(body)
    return DeadLetter(
        id=_id(when, body),
        body=body,
        pool=pool,
        message_id=message,
        session=session,
        reason=_REASONS.get(why, why.upper()),
        error=f"RabbitMQ gave it up in {queue or 'its queue'} ({why})",
        attempts=0,
        first_failed=when,
        last_failed=when,
        worker_id="",
        revision_id="",
        trace_id=trace,
    )


def _named(body: bytes) -> tuple[str, str, str]:
    """Message id, session's path and trace id, as far as they can be read."""
    try:
        message = envelope.decode(body)
    except envelope.Undecodable:
        return "", "", ""
    parts = message.traceparent.split("-")
    return message.id, SessionKey.of(message.target).path, parts[1] if len(parts) == 4 else ""


def _id(when: float, body: bytes) -> str:
    """A UUIDv7 that is the same at each look."""
    tail = int.from_bytes(hashlib.sha256(body).digest()[:10]) & (1 << 74) - 1
    high, low = tail >> 62, tail & (1 << 62) - 1
    digits = f"{int(when * 1_000) << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _storable(text: str) -> str:
    """Half surrogates have no bytes, and must not keep a letter from being kept."""
    return text.encode(errors="backslashreplace")[:_MAX_TEXT].decode(errors="ignore")


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value if isinstance(value, str) else ""


def _time(value: object, otherwise: float) -> float:
    try:
        found = float(_text(value))
    except ValueError:
        return otherwise
    return found if 0.0 <= found < _YEAR_10000 else otherwise


def _count(value: object) -> int:
    return int(value) if isinstance(value, int) else 0  # pika's integers are of a type of its own
