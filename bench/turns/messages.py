"""What both contenders of one process consume: messages to SESSIONS sessions, in order for each."""

import time
from collections.abc import Iterator

import meter

from troupe.broker.addressing import SessionKey
from troupe.chassis.wire import timestamp
from troupe.v1 import envelope_pb2
from troupe.v1.envelope_pb2 import Content, Envelope, Number

SHARDS = 32
WORKED, OTHER = range(16), range(16, 32)
"""The shards whose messages are worked on, and those that they send to."""
SESSIONS = 256


def sessions(shards: range) -> list[SessionKey]:
    """SESSIONS of them that lie in these shards."""
    found = (SessionKey("default", "default", "relay", f"s{number}") for number in range(100 * SESSIONS))
    return [key for key in found if key.shard(SHARDS) in shards][:SESSIONS]


def envelopes(messages: int) -> Iterator[Envelope]:
    """So many, to the sessions in turn."""
    now = timestamp(time.time())
    targets = [(key.ref(), f"stream-{key.session}") for key in sessions(WORKED)]
    for index in range(messages):
        target, stream = targets[index % SESSIONS]
        yield Envelope(
            id=f"message-{index}",
            target=target,
            number=Number(stream=stream, sequence=index // SESSIONS + 1),
            kind=envelope_pb2.ENVELOPE_KIND_MESSAGE,
            content=Content(text=meter.PAYLOAD),
            first_sent=now,
        )
