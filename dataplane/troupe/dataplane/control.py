"""Verbs on turns: recorded in the state store, which alone decides, for messages by name or by selector."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

import structlog

from troupe.broker.addressing import SessionKey
from troupe.chassis import fault_points
from troupe.chassis.clock import Clock
from troupe.chassis.errors import TroupeError
from troupe.dataplane import metrics
from troupe.dataplane.actors.endings import cancelled_record
from troupe.dataplane.actors.host import Host
from troupe.dataplane.following import Following
from troupe.dataplane.nudging import Nudges
from troupe.dataplane.peers import Peers
from troupe.dataplane.placement import Placement, ShardOwner
from troupe.dataplane.restarting import Restarts, restarted_as
from troupe.dataplane.selection import Selection
from troupe.dataplane.standing import fate
from troupe.dataplane.state.control import Control
from troupe.dataplane.state.port import StateStore
from troupe.dataplane.state.session import Entry
from troupe.v1 import agent_pb2, turn_pb2
from troupe.v1.agent_pb2 import (
    ControlTurnsRequest,
    ControlTurnsResponse,
    MessageRef,
    MessageStatus,
    Verb,
    VerbAnswer,
)
from troupe.v1.envelope_pb2 import SessionRef
from troupe.v1.turn_pb2 import Fate

AT_ONCE: Final = 64
"""Messages that a verb is recorded for side by side."""
PAGE: Final = 500
"""Messages that the store is asked for at once."""

_STOPS: Final = frozenset({agent_pb2.VERB_CANCEL, agent_pb2.VERB_KILL})
_SETTLES: Final = _STOPS | {agent_pb2.VERB_RESTART}
_BINDS: Final = frozenset({agent_pb2.VERB_ANSWER_APPLIED, agent_pb2.VERB_ANSWER_PENDING})

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Order:
    """One verb, for any number of messages."""

    verb: Verb.ValueType
    verb_id: str
    lifts: str = ""
    """RESUME: the PAUSE that it lifts, by its verb id; empty: all."""
    from_step: int = 0
    """RESTART: the first step that is taken again."""
    dry_run: bool = False


class TurnControl:
    """One worker's."""

    def __init__(
        self,
        store: StateStore,
        host: Host,
        clock: Clock,
        placement: Placement,
        following: Following,
        peers: Peers,
        nudges: Nudges,
        restarts: Restarts,
    ) -> None:
        self._store, self._host, self._clock, self._placement = store, host, clock, placement
        self._following, self._peers, self._nudges, self._restarts = following, peers, nudges, restarts

    async def named(
        self, order: Order, messages: Sequence[tuple[SessionKey, MessageRef]], *, relayed: bool = False
    ) -> AsyncGenerator[ControlTurnsResponse, None]:
        """Record the verb for these messages, and tell the turns concerned, wherever they run: one answer each, in
        order. Raises what recording it for one of them raised, after the answers of those before it. `relayed`: another
        worker has recorded it, and tells this one, their owner."""
        for start in range(0, len(messages), AT_ONCE):
            some = messages[start : start + AT_ONCE]
            recording = (self._record(order, key, ref, relayed) for key, ref in some)
            recorded = await asyncio.gather(*recording, return_exceptions=True)
            if not order.dry_run:
                bound = [
                    (key, ref.message_id)
                    for (key, ref), response in zip(some, recorded, strict=True)
                    if isinstance(response, ControlTurnsResponse) and response.answer in _BINDS
                ]
                self._nudges.verb(order.verb, order.verb_id, bound, lifts=order.lifts, here_only=relayed)
                await asyncio.gather(*(self._announce(order, key, message_id) for key, message_id in bound))
            for response in recorded:
                if isinstance(response, BaseException):
                    raise response
                yield response

    async def selected(
        self,
        order: Order,
        selection: Selection,
        limit: float,
        reaches: Callable[[SessionKey], bool] = lambda _: True,
        shards: Iterable[int] | None = None,
    ) -> AsyncGenerator[ControlTurnsResponse, None]:
        """The same for what the selection means and is in sessions that the caller `reaches`: at most `limit`, in no
        order. What is on its way to its session is not among it. `shards`: look only at these, and as their owner."""
        found = self._everywhere(selection) if shards is None else self._here(selection, shards)
        some: list[tuple[SessionKey, MessageRef]] = []
        async with aclosing(found):
            async for key, message_id in found:
                if not reaches(key):
                    continue
                session = SessionRef(namespace=key.namespace, agent=key.agent, session=key.session)
                some.append((key, MessageRef(session=session, message_id=message_id)))
                if len(some) >= min(AT_ONCE, limit):
                    async for response in self.named(order, some):
                        yield response
                    limit -= len(some)
                    some = []
                    if limit <= 0:
                        return
        async for response in self.named(order, some):
            yield response

    async def cancel(self, key: SessionKey, message_id: str, verb_id: str) -> VerbAnswer.ValueType:
        """CANCEL one message; the answer."""
        order = Order(agent_pb2.VERB_CANCEL, verb_id)
        (answer,) = [one.answer async for one in self.named(order, [(key, MessageRef(message_id=message_id))])]
        return answer

    async def _record(self, order: Order, key: SessionKey, ref: MessageRef, relayed: bool) -> ControlTurnsResponse:
        response = ControlTurnsResponse(message=ref, verb_id=order.verb_id)
        attempt = ref.attempt if ref.HasField("attempt") else None
        control = Control(order.verb, order.verb_id, ref.message_id, attempt, order.lifts, dry_run=order.dry_run)
        if order.verb == agent_pb2.VERB_RESTART:
            await self._restart(order, key, control, response, relayed=relayed)
        else:
            if order.verb in _STOPS and not order.dry_run:
                control = replace(control, status=await self._cancelled(key, ref.message_id))
            response.answer = await self._store.control(key, control)
        fault_points.reach("verb.after")
        if not order.dry_run:
            metrics.VERBS.labels(_word(Verb.Name(order.verb)), _word(VerbAnswer.Name(response.answer), 2)).inc()
        return response

    async def _restart(
        self, order: Order, key: SessionKey, control: Control, response: ControlTurnsResponse, *, relayed: bool
    ) -> None:
        """Record a RESTART. Where another worker has done so, the store only says what came of it."""
        message_id, new_id = control.message_id, restarted_as(order.verb_id, control.message_id)
        if relayed:
            response.answer = await self._store.control(key, control)
        else:
            async with self._restarts.prepared(order.verb_id, key, message_id, order.from_step) as prepared:
                status = await self._cancelled(key, message_id, new_id)
                control = replace(control, status=status, restart=prepared.restart)
                response.answer = await self._store.control(key, control)
                response.steps.extend(prepared.steps)
                if response.answer == agent_pb2.VERB_ANSWER_APPLIED and not order.dry_run:
                    await prepared.done()
        if response.answer == agent_pb2.VERB_ANSWER_APPLIED:
            response.restarted_as = new_id

    async def _cancelled(self, key: SessionKey, message_id: str, restarted_as: str = "") -> bytes:
        """The status of a message that is settled where it waits, or as a dead letter."""
        attempts = 0
        if (entry := await self._store.waiting(key, message_id)) is not None:
            attempts = entry.attempts
        elif restarted_as and (record := await self._store.record(key, message_id)) is not None:
            attempts = MessageStatus.FromString(record.status).attempts
        now = self._clock.now()
        return cancelled_record(key, message_id, b"", attempts, now, restarted_as=restarted_as).status

    async def _announce(self, order: Order, key: SessionKey, message_id: str) -> None:
        """Tell those who follow the message here, where that settled it."""
        if order.verb in _SETTLES and self._following.hub.listening(key, message_id):
            record = await self._store.record(key, message_id)
            if record is not None and record.fate == turn_pb2.FATE_CANCELLED:
                self._following.announce(key, record)

    async def _everywhere(self, selection: Selection) -> AsyncGenerator[tuple[SessionKey, str], None]:
        """What is selected, as the owners of the shards say; as the store does, where there is none or it is silent."""
        count = self._placement.shard_count
        whole = selection.key
        others: dict[str, tuple[ShardOwner, list[int]]] = {}
        here = []
        for shard in range(count) if whole is None else [whole.shard(count)]:
            owner = self._following.owner_of(shard)
            if owner is None:
                here.append(shard)
            else:
                others.setdefault(owner.instance_id, (owner, []))[1].append(shard)
        for owner, shards in others.values():
            seen = set()
            try:
                async with aclosing(self._asked(owner, selection, shards)) as found:
                    async for one in found:
                        seen.add(one)
                        yield one
            except TroupeError as error:
                log.info("owner not asked for its turns", worker=owner.worker_id, error=str(error))
                async with aclosing(self._here(selection, shards)) as found:
                    async for one in found:
                        if one not in seen:
                            yield one
        async with aclosing(self._here(selection, here)) as found:
            async for one in found:
                yield one

    async def _asked(
        self, owner: ShardOwner, selection: Selection, shards: Sequence[int]
    ) -> AsyncGenerator[tuple[SessionKey, str], None]:
        request = ControlTurnsRequest(
            verb=agent_pb2.VERB_CANCEL, dry_run=True, selector=selection.selector(), shards=shards
        )
        async with aclosing(self._peers.selected(owner, request)) as answers:
            async for answer in answers:
                yield SessionKey.of(answer.message.session, selection.tenant), answer.message.message_id

    async def _here(self, selection: Selection, shards: Iterable[int]) -> AsyncGenerator[tuple[SessionKey, str], None]:
        """What is selected in these shards: of turns that this worker runs, and of what waits in the store."""
        for shard in shards:
            running = set()
            for key, entry in self._host.turns(shard):
                running.add((key, entry.message_id))
                if selection.of_session(key):
                    stands = fate(entry, await self._store.verbs(key), runs=True)
                    if selection.takes(key, stands, dict(entry.attributes)):
                        yield key, entry.message_id
            after: tuple[str, str] | None = None
            while page := await self._store.messages(shard, selection.prefix, after, PAGE):
                for key, entry, stands in page:
                    known = (key, entry.message_id) in running
                    if not known and await self._takes(selection, key, entry, stands):
                        yield key, entry.message_id
                if len(page) < PAGE:
                    break
                after = page[-1][0].path, page[-1][1].message_id

    async def _takes(self, selection: Selection, key: SessionKey, entry: Entry, stands: Fate.ValueType) -> bool:
        """Whether the selection means what the store says of a message. One that is scheduled and held is both."""
        attributes = dict(entry.attributes)
        if stands == turn_pb2.FATE_WAITING and entry.running is not None:
            stands = turn_pb2.FATE_RUNNING
        if selection.takes(key, stands, attributes):
            return True
        held = stands == turn_pb2.FATE_SCHEDULED and selection.takes(key, turn_pb2.FATE_PAUSED, attributes)
        return held and fate(entry, await self._store.verbs(key)) == turn_pb2.FATE_PAUSED


def _word(name: str, prefix: int = 1) -> str:
    """An enum value as a label: without its enum's name, which has so many words."""
    return name.split("_", prefix)[-1].lower()
