"""One session of the store in memory: what it holds, and the steps of scripts that change it."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number, Position
from troupe.dataplane.state import promises, rules, schedule
from troupe.dataplane.state.control import Control, Promise, Restart
from troupe.dataplane.state.memory_rows import Kept, Recorded, Reminding, Stream, Talk
from troupe.dataplane.state.port import Placed, TurnCommit
from troupe.dataplane.state.session import (
    RECENT,
    Entry,
    Loaded,
    Outgoing,
    Record,
    Sent,
    SessionSummary,
    Verbs,
)
from troupe.dataplane.state.verbs import ENDING, Bound, Standing, binds, lifted
from troupe.v1 import agent_pb2, turn_pb2
from troupe.v1.agent_pb2 import VerbAnswer
from troupe.v1.turn_pb2 import Fate


@dataclass(slots=True)
class Session:
    shard: int = -1
    talk: Talk = field(default_factory=Talk)
    streams: dict[str, Stream] = field(default_factory=dict)
    inbox: dict[Number, Entry] = field(default_factory=dict)
    envelopes: dict[Number, bytes] = field(default_factory=dict)
    scheduled: dict[Number, tuple[Entry, bytes]] = field(default_factory=dict)
    """Each with its envelope."""
    reminders: dict[str, Reminding] = field(default_factory=dict)
    records: dict[str, Kept] = field(default_factory=dict)
    journals: dict[str, dict[tuple[bytes, str], bytes]] = field(default_factory=dict)
    """By message id: what each step of each payload, by its digest, came to."""
    verbs: dict[str, dict[str, Recorded]] = field(default_factory=dict)
    """By message id and verb id."""
    promises: dict[str, Promise] = field(default_factory=dict)
    outbox: dict[Number, Outgoing] = field(default_factory=dict)
    sent: dict[str, Sent] = field(default_factory=dict)
    size: int = 0
    """Bytes of the envelopes in the inbox."""
    rests: bool = False

    # --- what is found

    @property
    def is_due(self) -> bool:
        """There is something left to do."""
        return bool(self.outbox or (self.inbox and not self.rests))

    def position(self, stream: str) -> Position:
        found = self.streams.get(stream)
        return found.position if found else Position()

    def fate(self, message_id: str) -> Fate.ValueType | None:
        kept = self.records.get(message_id)
        return kept.record.fate if kept else None

    def waiting(self, message_id: str) -> list[Entry]:
        return [entry for entry in self.inbox.values() if entry.message_id == message_id and not entry.skip]

    def on_schedule(self, message_id: str) -> Entry | None:
        entries = (entry for entry, _ in self.scheduled.values())
        return next((entry for entry in entries if entry.message_id == message_id and not entry.skip), None)

    def promises_of(self, message_id: str) -> list[Promise]:
        made = (promise for promise in self.promises.values() if promise.message_id == message_id)
        return sorted(made, key=lambda promise: promise.id)

    def bound(self, message_id: str) -> Bound:
        found = {kept.verb for kept in self.verbs.get(message_id, {}).values() if kept.binds}
        return Bound(
            cancelled=bool(found & set(ENDING)),
            killed=agent_pb2.VERB_KILL in found,
            paused=agent_pb2.VERB_PAUSE in found,
        )

    def all_bound(self) -> Verbs:
        by_id = {id_: self.bound(id_) for id_ in self.verbs}
        return Verbs(
            frozenset(id_ for id_, bound in by_id.items() if bound.cancelled),
            frozenset(id_ for id_, bound in by_id.items() if bound.killed),
            frozenset(id_ for id_, bound in by_id.items() if bound.paused),
        )

    def found(self, number: Number, message_id: str) -> rules.Found:
        return rules.Found(
            position=self.position(number.stream),
            waits=self.inbox.get(number),
            fate=self.fate(message_id),
            bound=self.bound(message_id),
            version=self.talk.version,
        )

    def standing(self, control: Control) -> Standing:
        id_ = control.message_id
        recorded = self.verbs.get(id_, {})
        return Standing(
            waiting=self.waiting(id_),
            scheduled=self.on_schedule(id_),
            fate=self.fate(id_),
            final=rules.is_final(self.fate(id_)),
            awaited=self.awaits(id_),
            purged=self.purged(id_),
            steps=len(self.journals.get(id_, {})),
            cancelled=self.bound(id_).cancelled,
            pauses=[name for name, kept in recorded.items() if kept.binds and kept.verb == agent_pb2.VERB_PAUSE],
            lifted=any(kept.lifts == control.verb_id for kept in recorded.values()),
        )

    def loaded(self) -> Loaded:
        talk = self.talk
        return Loaded(
            version=talk.version,
            state=talk.state,
            snapshot=talk.snapshot,
            history=[delta for version, delta in talk.history if version > talk.snapshot_version],
            positions={name: stream.position for name, stream in self.streams.items()},
            inbox=list(self.inbox.values()),
            recent=list(self.records)[:RECENT],
            verbs=self.all_bound(),
            journaled=frozenset(self.journals),
            outbox=list(self.outbox.values()),
            sent=dict(self.sent),
        )

    def summary(self, key: SessionKey) -> SessionSummary:
        talk, waiting = self.talk, sum(not entry.skip for entry in self.inbox.values())
        scheduled = sum(not entry.skip for entry, _ in self.scheduled.values()) + len(self.reminders)
        return SessionSummary(key, talk.version, talk.turns, waiting, talk.usage, talk.created, talk.updated, scheduled)

    def messages(self) -> Iterable[tuple[Entry, Fate.ValueType]]:
        """What waits or is scheduled, without SKIPs and copies."""
        found: dict[str, tuple[Entry, Fate.ValueType]] = {}
        for entry in self.inbox.values():
            if not entry.skip:
                bound = self.bound(entry.message_id)
                paused = bound.paused and not bound.cancelled
                found.setdefault(entry.message_id, (entry, turn_pb2.FATE_PAUSED if paused else turn_pb2.FATE_WAITING))
        for entry, _ in self.scheduled.values():
            if not entry.skip:
                found.setdefault(entry.message_id, (entry, turn_pb2.FATE_SCHEDULED))
        return found.values()

    # --- inbox and schedule

    def place(self, entry: Entry, envelope: bytes, *, scheduled: bool, busy: bool, now: float) -> Placed:
        """`scheduled`: its number stands on the schedule. What it does to the fate is settled as of `now`."""
        recorded = self.verbs.get(entry.message_id, {}).values()
        placed, record = rules.place(
            entry,
            self.position(entry.number.stream),
            waits=scheduled or entry.number in self.inbox,
            live=bool(self.waiting(entry.message_id) or self.on_schedule(entry.message_id)),
            busy=busy or any(not other.skip for other in self.inbox.values()),
            fate=self.fate(entry.message_id),
            journaled=entry.message_id in self.journals,
            tombstone=next((kept.status for kept in recorded if kept.binds and kept.verb in ENDING), None),
            now=now,
        )
        if placed is Placed.SCHEDULED:
            self.scheduled[entry.number] = (entry, envelope)
        elif placed in (Placed.NEW, Placed.SKIPPED):
            entering = replace(schedule.entering(entry), skip=placed is Placed.SKIPPED)
            self.insert(entering, envelope, at_head=entering.running is not None)
            self.rests = self.rests and not rules.wakes(entering)
            self.comes_again(entering)
        if record is not None:
            self.settle(entry.message_id, record, now)
        return placed

    def insert(self, entry: Entry, envelope: bytes, *, at_head: bool) -> None:
        self.remove(entry.number)
        self.envelopes[entry.number] = envelope
        self.size += len(envelope)
        if at_head:
            self.inbox = {entry.number: entry, **self.inbox}
        else:
            self.inbox[entry.number] = entry

    def remove(self, number: Number) -> None:
        self.inbox.pop(number, None)
        self.scheduled.pop(number, None)
        self.size -= len(self.envelopes.pop(number, b""))

    def enter(self, number: Number, *, busy: bool, now: float) -> bool:
        """A scheduled message is due. Whether that changed the inbox."""
        entry, envelope = self.scheduled.pop(number)
        placed = self.place(entry, envelope, scheduled=False, busy=busy, now=now)
        return placed in (Placed.NEW, Placed.SKIPPED)

    def remind(self, name: str, now: float) -> bool:
        """A reminder is due. Whether that changed the inbox."""
        reminder = self.reminders[name].reminder
        entry = schedule.occurrence(reminder, self.position(reminder.stream), now)
        if entry.number in self.inbox:
            self.reminders[name] = Reminding(reminder, held=True)
            return False
        self.insert(entry, reminder.envelope, at_head=False)
        if (following := schedule.following(reminder, now)) is None:
            del self.reminders[name]
        else:
            self.reminders[name] = Reminding(following)
        return True

    # --- verbs and promises

    def record_verb(self, control: Control, answer: VerbAnswer.ValueType, found: Standing, now: float) -> None:
        recorded = self.verbs.setdefault(control.message_id, {})
        recorded[control.verb_id] = Recorded(
            control.verb, answer, control.lifts, control.status, now, binds(control.verb, answer)
        )
        for verb_id in lifted(control, answer, found):
            recorded[verb_id] = replace(recorded[verb_id], binds=False)
        self.rests = False

    def restart(self, message_id: str, restart: Restart, now: float) -> None:
        """Another message goes on from what this one has done."""
        entry = replace(restart.entry, placed=now, due=now)
        self.scheduled[entry.number] = (entry, restart.envelope)
        if restart.journal:
            self.journals[entry.message_id] = {(entry.digest, step): kept for step, kept in restart.journal.items()}
        for promise in self.promises_of(message_id):
            if promise.id in restart.promises:
                self.promises[promise.id] = replace(promise, message_id=entry.message_id)

    def make(self, made: Iterable[Promise]) -> None:
        for promise in made:
            self.promises[promise.id] = promises.made(promise, self.promises.get(promise.id))

    def end(self, ended: Collection[Promise]) -> None:
        """Promises that came to their end: what waits for one of them goes on."""
        if ended:
            self.promises.update({promise.id: promise for promise in ended})
            ids = [promise.id for promise in ended]
            self.inbox = {number: promises.woken(entry, ids) for number, entry in self.inbox.items()}
            self.rests = False

    # --- the end of a message

    def is_past(self, message_id: str) -> bool:
        """Whether a deletion leaves the message as it is."""
        kept = self.records.get(message_id)
        waits = bool(self.waiting(message_id)) or self.on_schedule(message_id) is not None
        return rules.is_past(kept.record.fate if kept else None, waits=waits)

    def settle(self, message_id: str, record: Record, now: float) -> None:
        """Write the record, where it may be; what waits under this id keeps its place as a SKIP."""
        for entry in self.waiting(message_id):
            self.inbox[entry.number] = replace(entry, skip=True)
        for number, (entry, envelope) in self.scheduled.items():
            if entry.message_id == message_id:
                self.scheduled[number] = (schedule.called_off(entry), envelope)
        old = self.records.get(message_id)
        if not rules.replaces(old.record.fate if old else None, record.fate):
            return
        recorded = self.verbs.get(message_id, {})
        recorded.update({verb_id: replace(kept, binds=False) for verb_id, kept in recorded.items()})
        if record.fate in rules.REDRIVABLE:
            self.records[message_id] = Kept(record, now, stays=True, awaits=old.awaits if old else None)
        else:
            self.records[message_id] = Kept(record, now, stays=False)
            self.journals.pop(message_id, None)
            made = self.promises_of(message_id)
            self.end([promises.withdrawn(promise, now) for promise in made if promises.is_open(promise)])

    def save(self, commit: TurnCommit) -> None:
        """What a turn that ended DONE changes."""
        talk = self.talk
        version = talk.version + 1
        if commit.history is not None:
            talk.history.append((version, commit.history))
        self.talk = replace(
            talk,
            version=version,
            turns=talk.turns + 1,
            state=talk.state if commit.state is None else commit.state,
            usage=talk.usage if commit.usage is None else commit.usage,
            created=talk.created if talk.version else commit.now,
            updated=commit.now,
            retention=commit.retention,
            snapshot=talk.snapshot if commit.snapshot is None else commit.snapshot,
            snapshot_version=talk.snapshot_version if commit.snapshot is None else version,
        )
        for message in commit.outbox:
            self.outbox[message.number] = message
            self.sent[message.target] = Sent(message.number, commit.now)
        for name in commit.forget_reminders:
            self.reminders.pop(name, None)
        for reminder in commit.remind:
            self.reminders[reminder.name] = Reminding(reminder)

    def settle_number(self, number: Number, now: float, position: Position) -> None:
        self.streams[number.stream] = Stream(position, now)
        self.remove(number)
        if schedule.is_occurrence(number):
            self.reminders = {
                name: replace(kept, held=False) if kept.reminder.stream == number.stream else kept
                for name, kept in self.reminders.items()
            }

    # --- redriven copies

    def awaits(self, message_id: str) -> bool:
        """Whether a redriven copy of the message is on its way."""
        kept = self.records.get(message_id)
        return kept is not None and kept.awaits is not None

    def await_(self, message_id: str, number: Number) -> None:
        self.records[message_id] = replace(self.records[message_id], stays=True, awaits=number)

    def purged(self, message_id: str) -> bool:
        """Whether the message's dead letter was."""
        kept = self.records.get(message_id)
        return kept is not None and kept.record.fate in rules.REDRIVABLE and not kept.stays

    def comes_again(self, placed: Entry) -> None:
        """What was placed may be a redriven copy that nobody was told of."""
        if rules.is_next_try(placed, self.fate(placed.message_id)) and not self.awaits(placed.message_id):
            self.await_(placed.message_id, placed.number)

    def came(self, message_id: str, settled: Number) -> None:
        """A copy that is settled is awaited no more."""
        kept = self.records.get(message_id)
        if kept is not None and kept.awaits == settled:
            self.records[message_id] = replace(kept, awaits=None)

    # --- forgetting

    def forget(self, old: float, now: float) -> None:
        live = [*self.inbox.values(), *(entry for entry, _ in self.scheduled.values())]
        streams = {entry.number.stream for entry in live} | {kept.reminder.stream for kept in self.reminders.values()}
        sending = {number.stream for number in self.outbox}
        waiting = {entry.message_id for entry in live if not entry.skip}
        gone = {id_ for id_, kept in self.records.items() if kept.settled < old and not kept.stays}
        self.records = {id_: kept for id_, kept in self.records.items() if id_ not in gone}
        self.journals = {id_: steps for id_, steps in self.journals.items() if id_ not in gone}
        self.promises = {id_: made for id_, made in self.promises.items() if made.message_id not in gone}
        self.verbs = {
            id_: kept
            for id_, recorded in self.verbs.items()
            if (kept := {name: verb for name, verb in recorded.items() if verb.at >= old or id_ in waiting})
        }
        self.streams = {name: found for name, found in self.streams.items() if found.touched >= old or name in streams}
        self.sent = {
            target: sent for target, sent in self.sent.items() if sent.at >= old or sent.number.stream in sending
        }
        untouched = self.talk.version and self.talk.updated + self.talk.retention < now
        if untouched and not (self.inbox or self.outbox or self.scheduled or self.reminders):
            self.talk = Talk()
            # A dead letter's stay with its record.
            self.journals = {id_: steps for id_, steps in self.journals.items() if id_ in self.records}
            self.promises = {id_: made for id_, made in self.promises.items() if made.message_id in self.records}
