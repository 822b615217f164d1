"""The session store, watched: each script tells the history what it changed."""

from collections.abc import Mapping

from fault.simulation.history import History
from fault.simulation.network import Server

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.dataplane.state import rules
from troupe.dataplane.state.memory import MemoryStateStore
from troupe.dataplane.state.port import Owner, Record, TurnCommit
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import VerbAnswer
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
        return [f"{key} {entry}" for key, session in self._sessions.items() for entry in session.inbox.values()]

    def sessions(self) -> list[SessionKey]:
        return list(self._sessions)

    async def journal(
        self, owner: Owner, key: SessionKey, message_id: str, steps: Mapping[str, bytes], *, starts: bool
    ) -> None:
        await super().journal(owner, key, message_id, steps, starts=starts)
        if starts and (key, message_id) in self._history.cancelled:
            self._history.violation("step after cancel", f"{message_id} in {key}")

    async def commit(self, owner: Owner, commit: TurnCommit) -> int:
        before = self._find(commit.key).talk.version, self.fates(commit.key)
        version = await super().commit(owner, commit)
        self._compare(commit.key, before[1])
        if version > before[0]:
            self._history.effect(commit.key, commit.message_id, commit.number)
        return version

    async def pass_over(self, owner: Owner, key: SessionKey, number: Number, now: float) -> bool:
        passed = await super().pass_over(owner, key, number, now)
        if passed:
            self._history.log(f"PASSED OVER {number.stream}:{number.sequence} in {key}")
            self._history.counts["passed over"] += 1
            self._history.passed.add(number)
            if self._server.holds(key, number):
                self._history.violation("passed over what is there", f"{number} of {key} is in the broker")
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
            if after.get(message_id) != record:
                self._history.violation("fate changed", f"{message_id} in {key} was {name(record)}")
        for message_id in after.keys() - before.keys():
            self._history.log(f"{name(after[message_id])} {message_id} in {key}")


def name(record: Record) -> str:
    return Fate.Name(record.fate).removeprefix("FATE_")


def is_done(record: Record) -> bool:
    return record.fate == turn_pb2.FATE_DONE
