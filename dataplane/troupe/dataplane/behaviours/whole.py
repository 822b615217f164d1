"""Contents are whole for whatever a session runs, and travel by reference everywhere else where they are large."""

from dataclasses import dataclass, replace

from troupe.broker.retry import RetryPolicy
from troupe.dataplane.actors.behaviour import Behaviour, Send, TurnContext, TurnResult
from troupe.dataplane.blobs.payloads import Payloads
from troupe.v1.envelope_pb2 import Envelope


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

    async def run(self, turn: TurnContext) -> TurnResult:
        result = await self.behaviour.run(replace(turn, message=await self._message(turn)))
        tenant = turn.key.tenant
        return replace(
            result,
            reply=await self.payloads.detached(tenant, result.reply),
            sends=[await self._sent(tenant, send) for send in result.sends],
        )

    async def _message(self, turn: TurnContext) -> Envelope:
        content = await self.payloads.inline(turn.key.tenant, turn.message.content)
        if content is turn.message.content:
            return turn.message
        message = Envelope()
        message.CopyFrom(turn.message)
        message.content.CopyFrom(content)
        return message

    async def _sent(self, tenant: str, send: Send) -> Send:
        return replace(send, content=await self.payloads.detached(tenant, send.content))
