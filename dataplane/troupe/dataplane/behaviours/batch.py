"""What an actor's `receive_batch` is given: several messages, one state, one commit."""

from typing import Any, NoReturn

from troupe.chassis.errors import FailedPrecondition
from troupe.dataplane.behaviours.context import Context, content_of
from troupe.dataplane.blobs.payloads import BYTES
from troupe.v1.envelope_pb2 import Content


class BatchedMessage:
    """One message of a batch."""

    def __init__(self, message_id: str, content: Content, resource: str) -> None:
        self.message_id, self.content = message_id, content
        self.answer = Content(text="")
        self._resource = resource

    @property
    def text(self) -> str:
        """Empty where it is no text."""
        return self.content.text

    def reply(self, text: str | bytes, content_type: str = BYTES) -> None:
        """Answer its sender once the turn is committed; the last call counts."""
        self.answer = content_of(text, content_type, f"{self._resource}: a reply")


class BatchContext(Context):
    """What `receive_batch` is given beside the messages. It has no journal, and so no calls and no promises."""

    async def call_tool(self, *_: Any, **__: Any) -> NoReturn:
        """Raises FailedPrecondition."""
        raise self._refused()

    async def promise(self, *_: Any, **__: Any) -> NoReturn:
        """Raises FailedPrecondition."""
        raise self._refused()

    def _refused(self) -> FailedPrecondition:
        return FailedPrecondition(
            "BATCH_HAS_NO_CALLS",
            f"{self._resource}: receive_batch makes neither calls nor promises; leave them to receive",
        )
