"""The messages that ours sends: 256 bytes of text to one session."""

import itertools

import meter

from troupe.broker.port import Broker
from troupe.v1 import envelope_pb2
from troupe.v1.envelope_pb2 import Content, Envelope, Number, SessionRef

TARGET = SessionRef(tenant="default", namespace="default", agent="clerk", session="bench")


class Sender:
    """One stream of messages, numbered from 1."""

    def __init__(self) -> None:
        self._sequences = itertools.count(1)

    def next(self) -> Envelope:
        """The next one, whole enough to be decoded."""
        sequence = next(self._sequences)
        return Envelope(
            id=f"bench-{sequence}",
            target=TARGET,
            number=Number(stream="bench", sequence=sequence),
            kind=envelope_pb2.ENVELOPE_KIND_MESSAGE,
            content=Content(text=meter.PAYLOAD),
        )

    async def send(self, broker: Broker, messages: int, pool: str = "") -> None:
        """Publish so many of them; return once all are confirmed. Raises the first error."""
        for error in await broker.publish_many([self.next() for _ in range(messages)], pool):
            if error:
                raise error
