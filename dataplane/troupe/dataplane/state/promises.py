"""How a promise comes to its end: once. Pure: one rule for all backends."""

from collections.abc import Collection
from dataclasses import replace

from troupe.dataplane.state.control import Promise, Settlement
from troupe.dataplane.state.session import Entry
from troupe.v1 import promise_pb2
from troupe.v1.promise_pb2 import SettlementAnswer

TOKENS = 8
"""Tokens of a promise that are kept, the newest."""
_STANDS = {
    promise_pb2.PROMISE_STATE_RESOLVED: promise_pb2.SETTLEMENT_ANSWER_DUPLICATE,
    promise_pb2.PROMISE_STATE_REJECTED: promise_pb2.SETTLEMENT_ANSWER_DUPLICATE,
    promise_pb2.PROMISE_STATE_EXPIRED: promise_pb2.SETTLEMENT_ANSWER_EXPIRED,
    promise_pb2.PROMISE_STATE_WITHDRAWN: promise_pb2.SETTLEMENT_ANSWER_WITHDRAWN,
}
"""The answer to whoever comes after the end."""


def is_open(promise: Promise | None) -> bool:
    return promise is not None and promise.state == promise_pb2.PROMISE_STATE_OPEN


def is_due(promise: Promise, now: float) -> bool:
    """Whether its time is over, and nobody has said so yet."""
    return is_open(promise) and 0 < promise.expires <= now


def made(promise: Promise, old: Promise | None) -> Promise:
    """What is kept where an attempt makes a promise that may be there already."""
    if old is None:
        return replace(promise, tokens=promise.tokens[-TOKENS:])
    fresh = tuple(token for token in promise.tokens if token not in old.tokens)
    return replace(old, tokens=(*old.tokens, *fresh)[-TOKENS:])


def settled(promise: Promise, settlement: Settlement, now: float) -> tuple[SettlementAnswer.ValueType, Promise]:
    """The answer to one try to settle it, and how it stands then."""
    if is_due(promise, now):
        return promise_pb2.SETTLEMENT_ANSWER_EXPIRED, expired(promise)
    if is_open(promise):
        return promise_pb2.SETTLEMENT_ANSWER_APPLIED, replace(
            promise,
            state=settlement.state,
            value=settlement.value,
            settlement_id=settlement.id,
            settled_by=settlement.by,
            settled=now,
        )
    answer = _STANDS[promise.state]
    if answer == promise_pb2.SETTLEMENT_ANSWER_DUPLICATE and promise.settlement_id == settlement.id:
        answer = promise_pb2.SETTLEMENT_ANSWER_APPLIED
    return answer, promise


def expired(promise: Promise) -> Promise:
    """One that is due."""
    return replace(promise, state=promise_pb2.PROMISE_STATE_EXPIRED, settled=promise.expires)


def withdrawn(promise: Promise, now: float) -> Promise:
    """An open one whose message is settled for good."""
    return replace(promise, state=promise_pb2.PROMISE_STATE_WITHDRAWN, settled=now)


def woken(entry: Entry, ended: Collection[str]) -> Entry:
    """What waits, after these promises came to their end: one is enough."""
    return replace(entry, awaits=()) if set(ended) & set(entry.awaits) else entry
