"""What must be true when everything has come to its end."""

from typing import TYPE_CHECKING

from fault.simulation.client import REFUSED
from fault.simulation.store import is_done, name, told

from troupe.broker.envelope import digest
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import MessageStatus
from troupe.v1.envelope_pb2 import Content

if TYPE_CHECKING:
    from fault.simulation.world import World

MAX_STARTS = 3
"""Counted starts in which one message may kill its worker. A start on the fast path is not counted: one for each of
its copies."""


def check(world: "World") -> None:
    """Tell the history what is wrong."""
    _nothing_left(world)
    _all_settled(world)
    _states(world)
    _answers(world)
    _reminders(world)
    _innocent(world)
    for (key, message_id), kills in world.history.kills.items():
        # Who lets go on what was held gives it a new chance, as who redrives it does.
        lives = 1 + world.history.redriven[key, message_id] + world.history.held[key, message_id]
        if kills > lives * MAX_STARTS + len(world.history.numbers[key, message_id]):
            world.history.violation("killed too many", f"{message_id} in {key} killed {kills} workers")


def _innocent(world: "World") -> None:
    """Nothing is taken for a killer that killed nobody, where nothing else goes wrong."""
    for (key, message_id), ends in world.history.ends.items():
        if "FATE_DEAD WORKER_KILLED" in ends and not (world.faults or any(world.history.kills.values())):
            world.history.violation("taken for a killer", f"{message_id} in {key}")


def _reminders(world: "World") -> None:
    """Each that was set, and neither replaced nor forgotten, came at least once."""
    for (key, name_), stream in world.history.reminders.items():
        if stream not in world.history.reminded:
            world.history.violation("not reminded", f"{name_} of {key}, {stream}")


def _nothing_left(world: "World") -> None:
    for entry in world.store.left():
        world.history.violation("left in inbox", entry)
    if not world.server.empty:
        world.history.violation("left in broker", str(len(world.server._messages())))


def _all_settled(world: "World") -> None:
    letters = {(letter.session, letter.message_id) for letter in world.server.broker.kept()}
    for key, message_id in sorted({*world.sent, *world.history.posted.values(), *world.history.restarted}, key=str):
        record = world.history.records.get((key, message_id))
        if record is None:
            if (key, message_id) in world.history.confirmed:
                world.history.violation("lost", f"{message_id} in {key}")
            continue
        world.history.counts[name(record)] += 1
        if record.fate in (turn_pb2.FATE_DEAD, turn_pb2.FATE_EXPIRED) and (key.path, message_id) not in letters:
            world.history.violation("dead without a letter", f"{message_id} in {key}")
        if (key, message_id) in world.history.cancelled and record.fate != turn_pb2.FATE_CANCELLED:
            world.history.violation("not cancelled", f"{message_id} in {key} is {name(record)}")
        if record.fate not in (
            turn_pb2.FATE_REJECTED if (key, message_id) in world.refusing else turn_pb2.FATE_DONE,
            turn_pb2.FATE_DONE,
            turn_pb2.FATE_DEAD,
            turn_pb2.FATE_EXPIRED,
            turn_pb2.FATE_CANCELLED,
        ):
            world.history.violation("odd fate", f"{message_id} in {key} is {name(record)}")


def _states(world: "World") -> None:
    """An actor's state names the messages that had an effect, in their order."""
    for key in world.store.sessions():
        state = world.store._find(key).talk.state.decode().split()
        expected = world.history.effects[key]
        if state != expected:
            world.history.violation("state", f"{key} is {state}, not {expected}")
        done = {id_ for (session, id_), record in world.history.records.items() if session == key and is_done(record)}
        if done != {message_id for session, message_id in world.history.done if session == key}:
            world.history.violation("records", f"{key}: {sorted(done)} are recorded as done")


def _answers(world: "World") -> None:
    """What a client was told is the message's end, if it is the client's message."""
    for (key, message_id), payload, answer in world.history.answers:
        record = world.history.records.get((key, message_id))
        if record is None:
            world.history.violation("answer without a record", f"{message_id} in {key}: {answer}")
            continue
        mine = not payload or digest(Content(text=payload)) == record.digest
        ends = [*world.history.ends[key, message_id], told(MessageStatus.FromString(record.status))]
        expected = ends if mine else [REFUSED]
        world.history.counts["answers"] += 1
        if record.fate == turn_pb2.FATE_CANCELLED and answer in (REFUSED, *ends):
            # Copies of two payloads were cancelled before either was the message: both answers are true.
            continue
        if answer not in expected:
            world.history.violation("answer", f"{message_id} in {key}, {payload!r}: {answer!r}, not {expected!r}")
