"""What a session reminds itself of: a turn's wishes become reminders, a reminder's occurrence a message. Pure."""

from collections.abc import Callable, Sequence
from typing import Final

from troupe.broker.addressing import SessionKey
from troupe.broker.envelope import digest
from troupe.broker.order import Number
from troupe.chassis.wire import timestamp
from troupe.dataplane.actors.behaviour import Remind
from troupe.dataplane.actors.outbox import EXPIRES
from troupe.dataplane.state.control import Reminder
from troupe.dataplane.state.schedule import REMINDER
from troupe.dataplane.state.session import Entry
from troupe.v1 import envelope_pb2
from troupe.v1.envelope_pb2 import Envelope

FIRST: Final = 1
"""Number of a reminder's first occurrence."""


def reminders(
    session: SessionKey, cause: Envelope, wishes: Sequence[Remind], *, generation: int, new_id: Callable[[], str]
) -> list[Reminder]:
    """What the turn of `cause` wants to be reminded of: each in a stream of its own."""
    made = []
    for wish in wishes:
        stream = f"{REMINDER}{wish.name}/{new_id()}"
        envelope = Envelope(
            source=session.ref(),
            target=session.ref(),
            kind=envelope_pb2.ENVELOPE_KIND_MESSAGE,
            content=wish.content,
            generation=generation,
            correlation_id=cause.correlation_id or cause.id,
            reminder=wish.name,
        )
        first = Entry(Number(stream, FIRST), f"{stream}/{FIRST}", digest(wish.content), placed=wish.due)
        made.append(
            Reminder(
                wish.name, stream, wish.due, wish.every, first.digest, occurrence(envelope, first).SerializeToString()
            )
        )
    return made


def occurrence(reminder: Envelope, entry: Entry) -> Envelope:
    """The message that a reminder's envelope stands for where `entry` waits for its turn."""
    message = Envelope()
    message.CopyFrom(reminder)
    message.id = entry.message_id
    message.number.stream, message.number.sequence = entry.number.stream, entry.number.sequence
    message.first_sent.CopyFrom(timestamp(entry.placed))
    message.expires.CopyFrom(timestamp(entry.placed + EXPIRES))
    return message
