"""Promises: settled in the state store, which alone decides who was first; shown and listed."""

from typing import Final

from troupe.broker.addressing import SessionKey
from troupe.chassis import fault_points
from troupe.chassis.errors import InvalidArgument, NotFound
from troupe.chassis.wire import timestamp
from troupe.dataplane import metrics
from troupe.dataplane.nudging import Nudges
from troupe.dataplane.placement import Placement
from troupe.dataplane.state import control
from troupe.dataplane.state.control import Settlement
from troupe.dataplane.state.port import StateStore
from troupe.v1 import promise_pb2
from troupe.v1.envelope_pb2 import Content
from troupe.v1.promise_pb2 import Promise, SettlementAnswer

MAX_DIGITS: Final = 9
"""Of a number in a page token."""


class Promises:
    """One worker's view of all promises."""

    def __init__(self, store: StateStore, placement: Placement, nudges: Nudges) -> None:
        self._store, self._placement, self._nudges = store, placement, nudges

    async def get(self, key: SessionKey, promise_id: str) -> control.Promise:
        """The promise as it stands. Raises NotFound."""
        await self._placement.ready()
        found = await self._store.promise(key, promise_id)
        if found is None:
            raise _unknown(key, promise_id)
        return found

    async def settle(
        self, key: SessionKey, settlement: Settlement
    ) -> tuple[SettlementAnswer.ValueType, control.Promise]:
        """Settle the promise, and tell the session, wherever it is: the answer, and the promise as it stands then.
        Raises NotFound."""
        await self._placement.ready()
        try:
            answer = await self._store.settle_promise(key, settlement)
            fault_points.reach("settlement.after")
        except KeyError as error:
            raise _unknown(key, settlement.promise_id) from error
        word = SettlementAnswer.Name(answer).removeprefix("SETTLEMENT_ANSWER_").lower()
        metrics.SETTLEMENTS.labels(word).inc()
        self._nudges.settled(key, settlement.promise_id)
        return answer, await self.get(key, settlement.promise_id)

    async def page(self, prefix: str, size: int, token: str, *, settled: bool) -> tuple[list[Promise], str]:
        """A page of the promises of sessions whose path begins with `prefix`, open ones or all, and the token of the
        next one, empty at the end. Values come as they travel."""
        await self._placement.ready()
        found = await self._store.promises(prefix, _place(token), size + 1, settled=settled)
        page = found[:size]
        following = _token(*page[-1]) if len(found) > size else ""
        return [shown(key, promise) for _, key, promise in page], following

    def taken_up(self, key: SessionKey, promise_id: str) -> None:
        """Another worker has settled the promise: this one, where it owns the session, goes on with it."""
        self._nudges.settled(key, promise_id, here_only=True)


def shown(key: SessionKey, promise: control.Promise) -> Promise:
    """The promise as a message, without its tokens; its value as it travels."""
    result = Promise(
        session=key.ref(),
        promise_id=promise.id,
        name=promise.name,
        message_id=promise.message_id,
        state=promise.state,
        created_at=timestamp(promise.created),
        json_schema=promise.json_schema.decode(),
        approvers=promise.approvers,
        settled_by=promise.settled_by,
    )
    if promise.expires:
        result.expires.CopyFrom(timestamp(promise.expires))
    if promise.settled:
        result.settled_at.CopyFrom(timestamp(promise.settled))
    if promise.state == promise_pb2.PROMISE_STATE_RESOLVED:
        result.value.CopyFrom(Content.FromString(promise.value))
    elif promise.state == promise_pb2.PROMISE_STATE_REJECTED:
        result.rejection = promise.value.decode()
    return result


def _unknown(key: SessionKey, promise_id: str) -> NotFound:
    return NotFound("PROMISE_UNKNOWN", f"session {key} has no promise {promise_id}, or has it no more")


def _token(shard: int, key: SessionKey, promise: control.Promise) -> str:
    return f"{shard}:{len(key.path)}:{key.path}{promise.id}"


def _place(token: str) -> tuple[int, str, str] | None:
    if not token:
        return None
    shard, _, rest = token.partition(":")
    size, _, names = rest.partition(":")
    if all(part.isascii() and part.isdecimal() and len(part) <= MAX_DIGITS for part in (shard, size)):
        path, promise_id = names[: int(size)], names[int(size) :]
        if path and promise_id:
            return int(shard), path, promise_id
    raise InvalidArgument("BAD_PAGE_TOKEN", "page_token: is none that ListPromises gave")
