"""A turn's wishes become reminders, and their occurrences messages."""

from troupe.broker.addressing import SessionKey
from troupe.broker.envelope import decode, digest
from troupe.broker.order import Position
from troupe.chassis.wire import seconds
from troupe.dataplane.actors.behaviour import Remind
from troupe.dataplane.actors.outbox import EXPIRES
from troupe.dataplane.actors.reminders import occurrence, reminders
from troupe.dataplane.state.schedule import following, is_occurrence
from troupe.dataplane.state.schedule import occurrence as due_entry
from troupe.dataplane.state.session import Entry
from troupe.v1.envelope_pb2 import Content, Envelope

ADA = SessionKey("default", "default", "clerk", "ada")
TEA = Content(text="tea")


def test_a_wish_becomes_a_reminder_in_a_stream_of_its_own() -> None:
    wishes = [Remind("tea", 100.0, 0.0, TEA), Remind("beat", 50.0, 10.0, TEA)]
    cause = Envelope(id="m", correlation_id="c")
    tea, beat = reminders(ADA, cause, wishes, generation=7, new_id=iter(["1", "2"]).__next__)
    assert [tea.stream, beat.stream] == ["reminder/tea/1", "reminder/beat/2"]
    assert (tea.name, tea.due, tea.every, tea.digest) == ("tea", 100.0, 0.0, digest(TEA))
    first = decode(tea.envelope)
    assert (first.id, first.number.stream, first.number.sequence) == ("reminder/tea/1/1", "reminder/tea/1", 1)
    assert (first.source, first.target, first.content) == (ADA.ref(), ADA.ref(), TEA)
    assert (first.reminder, first.generation, first.correlation_id) == ("tea", 7, "c")
    assert (seconds(first.first_sent), seconds(first.expires)) == (100.0, 100.0 + EXPIRES)


def test_each_occurrence_is_a_message_of_its_own() -> None:
    (beat,) = reminders(ADA, Envelope(id="m"), [Remind("beat", 50.0, 10.0, TEA)], generation=1, new_id=lambda: "1")
    again = following(beat, 50.0)
    assert again is not None
    entry = due_entry(again, Position(1), 75.0)
    message = occurrence(decode(again.envelope), entry)
    assert is_occurrence(entry.number)
    assert (message.id, message.number.sequence) == ("reminder/beat/1/2", 2)
    assert seconds(message.first_sent) == entry.placed == 70.0
    assert seconds(message.expires) == 70.0 + EXPIRES
    assert digest(message.content) == entry.digest
    assert decode(again.envelope).number.sequence == 1, "what is kept stays as it is"
    assert isinstance(entry, Entry)
