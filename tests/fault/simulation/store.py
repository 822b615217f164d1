"""The session store, watched: each script tells the history what it changed."""

from collections.abc import Mapping
from dataclasses import replace

from fault.simulation.history import History
from fault.simulation.network import Server

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.dataplane.state import rules
from troupe.dataplane.state.memory import MemoryStateStore
from troupe.dataplane.state.port import Attempt, Entry, Owner, Record, TurnCommit
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import MessageStatus, VerbAnswer
from troupe.v1.envelope_pb2 import Envelope
from troupe.v1.turn_pb2 import Fate


class WatchedStore(MemoryStateStore):
    """As its base; what it sees is what really happened, whoever got to know of it."""

    def __init__(self, history: History, server: Server) -> None:
        super().__init__()
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
            for waits in [*session.inbox.values(), *session.outbox.values()]
        ]

    def marked(self, key: SessionKey) -> list[Entry]:
        """What stands under a mark: its turn may go on."""
        return [entry for entry in self._find(key).inbox.values() if entry.running is not None and not entry.skip]

    def sessions(self) -> list[SessionKey]:
        return list(self._sessions)

    async def journal(
        self, owner: Owner, key: SessionKey, attempt: Attempt, steps: Mapping[str, bytes], *, starts: bool
    ) -> None:
        await super().journal(owner, key, attempt, steps, starts=starts)
        if starts and (key, attempt.message_id) in self._history.cancelled:
            self._history.violation("step after cancel", f"{attempt.message_id} in {key}")

    async def commit(self, owner: Owner, commit: TurnCommit) -> int:
        before = self._find(commit.key).talk.version, self.fates(commit.key)
        version = await super().commit(owner, commit)
        self._compare(commit.key, before[1])
        if version > before[0]:
            self._history.effect(commit.key, commit.message_id, commit.number)
            for message in commit.outbox:
                sent = Envelope.FromString(message.envelope)
                self._history.post(SessionKey.parse(message.target), sent.id, message.number)
        return version

    async def pass_over(self, owner: Owner, key: SessionKey, number: Number, count: int, now: float) -> bool:
        passed = await super().pass_over(owner, key, number, count, now)
        for missing in (replace(number, sequence=number.sequence + each) for each in range(count if passed else 0)):
            self._history.log(f"PASSED OVER {missing.stream}:{missing.sequence} in {key}")
            self._history.counts["passed over"] += 1
            self._history.passed.add(missing)
            if any(missing in session.outbox for session in self._sessions.values()):
                self._history.violation("passed over what is there", f"{missing} of {key} is in an outbox")
            if self._server.holds(key, missing):
                self._history.violation("passed over what is there", f"{missing} of {key} is in the broker")
        return passed

    async def cancel(
        self, key: SessionKey, message_id: str, verb_id: str, cancelled: Record, now: float
    ) -> VerbAnswer.ValueType:
        before = self.fates(key)
        answer = await super().cancel(key, message_id, verb_id, cancelled, now)
        self._compare(key, before)
        self._history.log(f"CANCEL {message_id} in {key}: {VerbAnswer.Name(answer)}")
        if answer in rules.BINDING:
            self._history.cancelled.setdefault((key, message_id), self._history.now())
        return answer

    async def delete(self, owner: Owner, key: SessionKey, cancelled: Mapping[str, Record], now: float) -> None:
        before = self.fates(key)
        await super().delete(owner, key, cancelled, now)
        self._compare(key, before)
        self._history.log(f"DELETED {key}")
        self._history.counts["deleted"] += 1
        self._history.effects[key].clear()

    def _compare(self, key: SessionKey, before: Mapping[str, Record]) -> None:
        after = self.fates(key)
        for message_id, record in before.items():
            now = after.get(message_id)
            if now is record or now == record:
                continue
            if (
                now is None
                or not rules.replaces(record.fate, now.fate)
                or (key, message_id) not in self._history.redriven
            ):
                self._history.violation("fate changed", f"{message_id} in {key} was {name(record)}")
        for message_id, record in after.items():
            if before.get(message_id) != record:
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
