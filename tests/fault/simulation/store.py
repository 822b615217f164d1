"""The session store, watched: each script tells the history what it changed."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence

from fault.simulation.history import History
from fault.simulation.server import Server

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.chassis.clock import Clock
from troupe.dataplane.state import rules
from troupe.dataplane.state.control import Control, Promise, Settlement
from troupe.dataplane.state.memory import MemoryStateStore
from troupe.dataplane.state.port import Due, Placed, TurnCommit
from troupe.dataplane.state.session import Attempt, Entry, Owner, Record
from troupe.dataplane.state.verbs import BINDING
from troupe.v1 import agent_pb2, promise_pb2, turn_pb2
from troupe.v1.agent_pb2 import MessageStatus, Verb, VerbAnswer
from troupe.v1.envelope_pb2 import Envelope
from troupe.v1.promise_pb2 import SettlementAnswer
from troupe.v1.turn_pb2 import Fate


class WatchedStore(MemoryStateStore):
    """As its base; what it sees is what really happened, whoever got to know of it."""

    def __init__(self, history: History, server: Server, clock: Clock) -> None:
        super().__init__(clock)
        self._history, self._server = history, server

    def is_owner(self, owner: Owner) -> bool:
        return self._fences.get(owner.shard) == (owner.epoch, owner.instance)

    def fates(self, key: SessionKey) -> Mapping[str, Record]:
        return {id_: kept.record for id_, kept in self._find(key).records.items()}

    def left(self) -> list[str]:
        """What still waits."""
        return [
            f"{key} {waits}"
            for key, session in self._sessions.items()
            for waits in [
                *session.inbox.values(),
                *session.outbox.values(),
                *session.scheduled.values(),
                *session.reminders.values(),
            ]
        ]

    def marked(self, key: SessionKey) -> list[Entry]:
        """What stands under a mark: its turn may go on."""
        return [entry for entry in self._find(key).inbox.values() if entry.running is not None and not entry.skip]

    def _open(self, key: SessionKey) -> list[Promise]:
        return [each for each in self._find(key).promises.values() if each.state == promise_pb2.PROMISE_STATE_OPEN]

    def _settled(self, key: SessionKey, were_open: Sequence[Promise]) -> None:
        for promise in were_open:
            now = self._find(key).promises.get(promise.id)
            if now is not None and now.state != promise_pb2.PROMISE_STATE_OPEN:
                self._history.settles(key, promise.id, now.state, now.value)

    def sessions(self) -> list[SessionKey]:
        return list(self._sessions)

    def backup(self) -> Callable[[], None]:
        """What brings the store back to how it is now."""
        sessions, fences = copy.deepcopy(self._sessions), dict(self._fences)
        counts = self._messages.copy(), self._bytes.copy()

        def restore() -> None:
            self._history.log("RESTORED")
            self._history.counts["restored"] += 1
            self._sessions, self._fences = sessions, fences
            self._messages, self._bytes = counts

        return restore

    async def put(self, owner: Owner, key: SessionKey, entry: Entry, envelope: bytes, *, busy: bool = False) -> Placed:
        before = self.fates(key)
        placed = await super().put(owner, key, entry, envelope, busy=busy)
        if placed is Placed.SCHEDULED:
            self._history.schedules(key, entry.message_id, entry.due)
        self._compare(key, before)
        return placed

    async def due(self, owner: Owner, busy: Collection[SessionKey] = ()) -> Due:
        keys = [key for key in self._sessions if key.shard(self._shards) == owner.shard]
        before = {key: (self.fates(key), self._open(key)) for key in keys}
        due = await super().due(owner, busy)
        for key, (fates, promises) in before.items():
            self._compare(key, fates)
            self._settled(key, promises)
        return due

    async def journal(
        self,
        owner: Owner,
        key: SessionKey,
        attempt: Attempt,
        steps: Mapping[str, bytes],
        *,
        starts: bool,
        compensates: bool = False,
        promises: Sequence[Promise] = (),
    ) -> None:
        await super().journal(owner, key, attempt, steps, starts=starts, compensates=compensates, promises=promises)
        name = key, attempt.message_id
        if starts and not compensates and name in self._history.cancelled:
            self._history.violation("step after cancel", f"{attempt.message_id} in {key}")
        if starts and not compensates and self._history.paused[name]:
            self._history.violation("step while paused", f"{attempt.message_id} in {key}")
        if compensates and name in self._history.killed:
            self._history.violation("compensation after kill", f"{attempt.message_id} in {key}")

    async def commit(self, owner: Owner, commit: TurnCommit) -> int:
        before = self._find(commit.key).talk.version, self.fates(commit.key), self._open(commit.key)
        version = await super().commit(owner, commit)
        self._compare(commit.key, before[1])
        self._settled(commit.key, before[2])
        if commit.number.stream.startswith("reminder/"):
            self._history.reminded.add(commit.number.stream)
        if version > before[0]:
            self._history.effect(commit.key, commit.message_id, commit.number)
            for companion in commit.companions:
                self._history.effect(commit.key, companion.message_id, companion.number)
            for message in commit.outbox:
                sent = Envelope.FromString(message.envelope)
                self._history.post(SessionKey.parse(message.target), sent.id, message.number)
            for name in commit.forget_reminders:
                self._history.reminders.pop((commit.key, name), None)
            for reminder in commit.remind:
                self._history.log(f"REMINDER {reminder.stream} in {commit.key} for {reminder.due}")
                self._history.counts["reminders"] += 1
                self._history.reminders[commit.key, reminder.name] = reminder.stream
        return version

    async def pass_over(self, owner: Owner, key: SessionKey, number: Number, count: int, now: float) -> bool:
        passed = await super().pass_over(owner, key, number, count, now)
        for missing in (Number(number.stream, number.sequence + each) for each in range(count if passed else 0)):
            self._history.log(f"PASSED OVER {missing.stream}:{missing.sequence} in {key}")
            self._history.counts["passed over"] += 1
            self._history.passed.add(missing)
            if any(missing in session.outbox for session in self._sessions.values()):
                self._history.violation("passed over what is there", f"{missing} of {key} is in an outbox")
            if self._server.holds(key, missing):
                self._history.violation("passed over what is there", f"{missing} of {key} is in the broker")
        return passed

    async def control(self, key: SessionKey, control: Control) -> VerbAnswer.ValueType:
        before, promises = self.fates(key), self._open(key)
        seen = control.verb_id in self._history.verbs
        session = self._find(key)
        digest = control.restart.entry.digest if control.restart else b""
        kept = session.journals.get(control.message_id, {})
        journal = {step: content for (payload, step), content in kept.items() if payload == digest}
        runs = [
            number
            for owner, number in self._history.running(key, control.message_id)
            if self.is_owner(owner) and number in session.inbox
        ]
        answer = await super().control(key, control)
        restarts = control.verb == agent_pb2.VERB_RESTART and answer == agent_pb2.VERB_ANSWER_APPLIED
        if restarts and not (seen or control.dry_run):
            self._history.restarts(key, control, journal)
            if runs:
                self._history.violation("restarted as it runs", f"{control.message_id} in {key}")
        self._compare(key, before)
        self._settled(key, promises)
        name = key, control.message_id
        self._history.log(f"{Verb.Name(control.verb)} {control.message_id} in {key}: {VerbAnswer.Name(answer)}")
        if control.dry_run:
            return answer
        if self._history.verbs.setdefault(control.verb_id, answer) != answer:
            self._history.violation("two answers to one verb", f"{control} was answered {answer}")
        if seen or answer not in BINDING:
            return answer
        match control.verb:
            case agent_pb2.VERB_PAUSE:
                self._history.pauses(key, control.message_id, control.verb_id)
            case agent_pb2.VERB_RESUME:
                self._history.resumes(key, control.message_id, control.lifts)
            case verb:
                self._history.cancelled.setdefault(name, self._history.now())
                if verb == agent_pb2.VERB_KILL:
                    self._history.killed.add(name)
        return answer

    async def settle_promise(self, key: SessionKey, settlement: Settlement) -> SettlementAnswer.ValueType:
        before = self._open(key)
        answer = await super().settle_promise(key, settlement)
        self._settled(key, before)
        told = self._history.settlements.setdefault(settlement.id, answer)
        if told != answer and told == promise_pb2.SETTLEMENT_ANSWER_APPLIED:
            self._history.violation("two answers to one settlement", f"{settlement}: {told}, then {answer}")
        return answer

    async def delete(self, owner: Owner, key: SessionKey, cancelled: Mapping[str, Record], now: float) -> None:
        before = self.fates(key)
        await super().delete(owner, key, cancelled, now)
        self._compare(key, before)
        self._history.log(f"DELETED {key}")
        self._history.counts["deleted"] += 1
        self._history.effects[key].clear()
        for session, name_ in [each for each in self._history.reminders if each[0] == key]:
            del self._history.reminders[session, name_]

    def _compare(self, key: SessionKey, before: Mapping[str, Record]) -> None:
        after = self.fates(key)
        for message_id, record in before.items():
            now = after.get(message_id)
            if now is record or now == record:
                continue
            if (
                now is None
                or not rules.replaces(record.fate, now.fate)
                or (key, message_id) not in {*self._history.redriven, *self._history.superseded}
            ):
                self._history.violation("fate changed", f"{message_id} in {key} was {name(record)}")
        for message_id, record in after.items():
            if before.get(message_id) != record:
                self._history.records[key, message_id] = record
                self._history.paused.pop((key, message_id), None)
                for promise in self._open(key):
                    if promise.message_id == message_id and rules.is_final(record.fate):
                        self._history.violation("promise left open", f"{promise.id} in {key}")
                if record.fate == turn_pb2.FATE_REJECTED:
                    self._history.rejected.add((key, message_id))
                self._history.log(f"{name(record)} {message_id} in {key}")
                self._history.ends[key, message_id].append(told(MessageStatus.FromString(record.status)))


def name(record: Record) -> str:
    return Fate.Name(record.fate).removeprefix("FATE_")


def is_done(record: Record) -> bool:
    return record.fate == turn_pb2.FATE_DONE


def told(status: MessageStatus) -> str:
    """A message's end as text."""
    end = status.result.text if status.HasField("result") else status.error.reason
    return f"{Fate.Name(status.fate)} {end}"
