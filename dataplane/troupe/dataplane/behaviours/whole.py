"""Contents are whole for whatever a session runs, and travel by reference everywhere else where they are large."""

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from troupe.broker.retry import RetryPolicy
from troupe.dataplane.actors.behaviour import Behaviour, Journal, TurnContext, TurnResult
from troupe.dataplane.blobs.payloads import Payloads, is_large
from troupe.dataplane.state.control import Promise
from troupe.v1.envelope_pb2 import Content, Envelope
from troupe.v1.promise_pb2 import PROMISE_STATE_RESOLVED


@dataclass(frozen=True)
class Whole:
    """`behaviour`, given messages whole and giving what it says by reference. See
    `troupe.dataplane.actors.behaviour.Behaviour`."""

    behaviour: Behaviour
    payloads: Payloads

    @property
    def revision_id(self) -> str:
        return self.behaviour.revision_id

    @property
    def generation(self) -> int:
        return self.behaviour.generation

    @property
    def retry(self) -> RetryPolicy:
        return self.behaviour.retry

    @property
    def deadline(self) -> float:
        return self.behaviour.deadline

    @property
    def retention(self) -> float:
        return self.behaviour.retention

    @property
    def max_batch(self) -> int:
        return self.behaviour.max_batch

    async def run(self, turn: TurnContext) -> TurnResult:
        result = await self.behaviour.run(await self._given(turn))
        if not any(map(is_large, _said(result))):
            return result
        tenant = turn.key.tenant
        return replace(
            result,
            reply=await self.payloads.detached(tenant, result.reply),
            replies=[await self.payloads.detached(tenant, reply) for reply in result.replies],
            sends=[replace(send, content=await self.payloads.detached(tenant, send.content)) for send in result.sends],
            remind=[
                replace(each, content=await self.payloads.detached(tenant, each.content)) for each in result.remind
            ],
        )

    async def compensate(self, turn: TurnContext) -> None:
        await self.behaviour.compensate(await self._given(turn))

    async def _given(self, turn: TurnContext) -> TurnContext:
        tenant = turn.key.tenant
        message = await self._message(tenant, turn.message)
        if message is turn.message and not (turn.batch or turn.journal.promises):
            return turn
        return replace(
            turn,
            message=message,
            batch=[await self._message(tenant, message) for message in turn.batch],
            journal=await self._journal(tenant, turn.journal),
        )

    async def _message(self, tenant: str, travelling: Envelope) -> Envelope:
        content = await self.payloads.inline(tenant, travelling.content)
        if content is travelling.content:
            return travelling
        message = Envelope()
        message.CopyFrom(travelling)
        message.content.CopyFrom(content)
        return message

    async def _journal(self, tenant: str, journal: Journal) -> Journal:
        values: dict[str, Promise] = {}
        for promise in journal.promises.values():
            if promise.state == PROMISE_STATE_RESOLVED:
                value = Content.FromString(promise.value)
                if (whole := await self.payloads.inline(tenant, value)) is not value:
                    values[promise.id] = replace(promise, value=whole.SerializeToString())
        return _WholeJournal(journal, values) if values else journal


def _said(result: TurnResult) -> Iterator[Content]:
    yield result.reply
    yield from result.replies
    yield from (send.content for send in result.sends)
    yield from (reminder.content for reminder in result.remind)


class _WholeJournal:
    """`journal`, with these promises in place of those of their ids."""

    def __init__(self, journal: Journal, promises: Mapping[str, Promise]) -> None:
        self._journal, self._promises = journal, promises

    @property
    def kept(self) -> Mapping[str, bytes]:
        return self._journal.kept

    @property
    def promises(self) -> Mapping[str, Promise]:
        return ChainMap(dict(self._promises), dict(self._journal.promises))

    def calling(self) -> AbstractContextManager[None]:
        return self._journal.calling()

    async def keep(
        self,
        steps: Mapping[str, bytes],
        *,
        starts: bool,
        compensates: bool = False,
        promises: Sequence[Promise] = (),
    ) -> None:
        await self._journal.keep(steps, starts=starts, compensates=compensates, promises=promises)
