"""What redriving does with one dead letter, and the message that it sends. Pure."""

from dataclasses import dataclass

from troupe.broker.port import DeadLetter
from troupe.chassis.wire import seconds, timestamp
from troupe.dataplane.dead_letters.shown import MAX_UINT32, death
from troupe.v1 import dead_letter_pb2, turn_pb2
from troupe.v1.dead_letter_pb2 import RedriveOutcome
from troupe.v1.envelope_pb2 import Envelope
from troupe.v1.turn_pb2 import Fate

LONGEST = 24 * 3600.0
"""Seconds that a redriven message is good for at most."""
DEATHS = 10
"""Of a message, that it carries along."""
NOT_COMPENSATED = "NOT_COMPENSATED"
"""Reason of the letter that says what a cancelled message left standing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a letter, and why, for all but REDRIVEN."""

    outcome: RedriveOutcome.ValueType
    detail: str = ""

    @property
    def sends(self) -> bool:
        """Whether the message is sent again."""
        return self.outcome == dead_letter_pb2.REDRIVE_OUTCOME_REDRIVEN

    @property
    def removes(self) -> bool:
        """Whether the letter goes."""
        return self.sends or self.outcome == dead_letter_pb2.REDRIVE_OUTCOME_OBSOLETE


SENT_AGAIN = Verdict(dead_letter_pb2.REDRIVE_OUTCOME_REDRIVEN)


def verdict(letter: DeadLetter, fate: Fate.ValueType | None) -> Verdict:
    """By the fate in the message's record, None where it has none (any more): only what ended dead may begin again. Of
    what a cancelled message left standing nothing tells but the letter."""
    match fate:
        case None | turn_pb2.FATE_CANCELLED if letter.reason == NOT_COMPENSATED:
            return Verdict(
                dead_letter_pb2.REDRIVE_OUTCOME_NOT_COMPENSATED,
                "its message was cancelled; take back by hand what the letter names, then purge it",
            )
        case None:
            return Verdict(
                dead_letter_pb2.REDRIVE_OUTCOME_NOT_SETTLED,
                "its message has no end on record yet: whoever gave it up comes back to it; try again later",
            )
        case turn_pb2.FATE_DEAD | turn_pb2.FATE_EXPIRED:
            return SENT_AGAIN
        case _:
            name = Fate.Name(fate).removeprefix("FATE_")
            return Verdict(dead_letter_pb2.REDRIVE_OUTCOME_OBSOLETE, f"its message ended {name} since")


def by_server(letter: DeadLetter) -> bool:
    """Whether the broker's server gave the message up, after too many deliveries, and no worker did: its number is not
    settled, and it goes on when it comes again as it was. Where it is settled after all, it has no effect."""
    return not letter.worker_id


def undecodable(why: str) -> Verdict:
    """Of a letter whose body names no mailbox."""
    return Verdict(dead_letter_pb2.REDRIVE_OUTCOME_UNDECODABLE, f"{why}; only a purge removes it")


def redriven(letter: DeadLetter, envelope: Envelope, now: float) -> Envelope:
    """The message of the letter as it is sent again: new in every respect but its id, what it says and what it went
    through. It is good for as long as it was at first.

    The letter's id names its stream. So a letter that is redriven twice, because the first time was cut off before
    the letter was gone, brings the same number twice, and the second one is known as a copy. What the server gave up
    goes as it was, in its own stream."""
    if by_server(letter):
        return envelope
    again = Envelope()
    again.CopyFrom(envelope)
    again.number.stream, again.number.sequence = letter.id, 1
    again.first_sent.CopyFrom(timestamp(now))
    again.expires.CopyFrom(timestamp(now + lasted(envelope)))
    again.attempt = 0
    again.redrives = min(envelope.redrives + 1, MAX_UINT32)
    del again.deaths[: max(0, len(again.deaths) + 1 - DEATHS)]
    again.deaths.append(death(letter))
    return again


def lasted(envelope: Envelope) -> float:
    """Seconds that a message is good for, from when it was first sent."""
    if not (envelope.HasField("first_sent") and envelope.HasField("expires")):
        return LONGEST
    lasted = seconds(envelope.expires) - seconds(envelope.first_sent)
    return min(lasted, LONGEST) if lasted > 0 else LONGEST
