"""What verbs, promises and the schedule do on two stores side by side, and what must never come of it."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from support.side_by_side import ALL_IDS, IDS, KEYS, OPEN, REMINDED, RESTARTED, Asker, SideBySide
from support.state_stores import DEAD, EXPIRED

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.dataplane.state.control import Control, Promise, Reminder, Restart, Settlement
from troupe.dataplane.state.port import Due, StateStore
from troupe.dataplane.state.session import Attempt, Entry, Owner
from troupe.v1 import agent_pb2, promise_pb2
from troupe.v1.agent_pb2 import Verb

# Few of everything, so that they meet; the first of each most of the time, so that most scripts get somewhere.
ids = st.sampled_from(IDS)
keys = st.sampled_from([KEYS[0], KEYS[0], KEYS[0], KEYS[1]])
askers = st.sampled_from([Asker.OWNER] * 5 + [Asker.MARKED] * 2 + [Asker.BEFORE, Asker.TWIN, Asker.NEXT])
rarely = st.sampled_from([False, False, False, True])
indexes = st.sampled_from([0, 0, 0, 1, 2, 3])
later = st.sampled_from([0, 0, 0, 1, -1])
asking = st.sampled_from([set[str](), set[str](), {"p"}, {"p", "q"}])
kinds = st.sampled_from(
    [agent_pb2.VERB_CANCEL, agent_pb2.VERB_KILL] + [agent_pb2.VERB_PAUSE] * 3 + [agent_pb2.VERB_RESUME] * 3
)


class ControlScripts(SideBySide):
    @rule(
        key=keys,
        index=indexes,
        id_=st.one_of(st.none(), st.none(), ids),
        kind=kinds,
        name=st.sampled_from("12"),
        attempt=st.sampled_from([None, None, None, 0, 1]),
        lifts=st.sampled_from(["", "pause 1", "pause 2"]),
        dry_run=rarely,
        seldom=rarely,
    )
    def control(
        self,
        key: SessionKey,
        index: int,
        id_: str | None,
        kind: Verb.ValueType,
        name: str,
        attempt: int | None,
        lifts: str,
        dry_run: bool,
        seldom: bool,
    ) -> None:
        ends = kind in (agent_pb2.VERB_CANCEL, agent_pb2.VERB_KILL)
        if ends and not seldom:
            return
        verb_id = f"{Verb.Name(kind).removeprefix('VERB_').lower()} {name}"
        lifted = lifts if kind == agent_pb2.VERB_RESUME else ""
        message_id = id_ or self.waiting(key, index).message_id
        control = Control(kind, verb_id, message_id, attempt, lifted, f"by {verb_id}".encode(), dry_run=dry_run)
        before = self.sessions
        answer = self.run(lambda store: store.control(key, control))
        if dry_run:
            assert self.sessions == before
        binds = not dry_run and answer in (agent_pb2.VERB_ANSWER_APPLIED, agent_pb2.VERB_ANSWER_PENDING)
        kept = self.sessions[key].records[message_id]
        if binds and ends and before != self.sessions:
            cancelled = message_id in self.loaded(key).verbs.cancelled
            assert cancelled or (kept is not None and kept.status == control.status)

    @rule(
        key=keys,
        index=indexes,
        id_=st.one_of(st.none(), ids),
        name=st.sampled_from("12"),
        attempt=st.sampled_from([None, None, None, 0, 1]),
        kept=st.sampled_from([set[str](), {"1"}, {"1", "2"}]),
        names=asking,
        dry_run=rarely,
        amiss=rarely,
    )
    def restart(
        self,
        key: SessionKey,
        index: int,
        id_: str | None,
        name: str,
        attempt: int | None,
        kept: set[str],
        names: set[str],
        dry_run: bool,
        amiss: bool,
    ) -> None:
        message_id = id_ or self.waiting(key, index).message_id
        if message_id not in RESTARTED:
            return
        self.time_passes(1.0)  # what is due at once has an order
        found = self.run(lambda store: store.resting(key, message_id))
        number, body = Number(f"restart/{name}{message_id}", 1), f"{message_id} again".encode()
        to = found and Restart(
            Entry(number, f"{name}{message_id}", found.digest, placed=self.now, due=self.now),
            body,
            {step: content for step, content in found.journal.items() if step in kept},
            frozenset(f"{message_id}/{each}" for each in names),
            found.steps + amiss,
        )
        control = Control(
            agent_pb2.VERB_RESTART,
            f"restart {name}",
            message_id,
            attempt,
            status=b"restarted",
            restart=to,
            dry_run=dry_run,
        )
        before = self.sessions
        answer = self.run(lambda store: store.control(key, control))
        if dry_run:
            assert self.sessions == before
        if answer == agent_pb2.VERB_ANSWER_APPLIED and before != self.sessions:
            self.past[key].scheduled.setdefault(number, len(body))
            assert self.sessions[key].waiting[f"{name}{message_id}"] is not None
            record = self.sessions[key].records[message_id]
            assert record is not None
            assert record.status == b"restarted"

    @rule(
        asker=askers,
        key=keys,
        index=indexes,
        names=st.sampled_from([set[str](), {"p"}, {"p", "q"}, {"unknown"}]),
        begins=st.booleans(),
        runs=st.booleans(),
    )
    def suspend(self, asker: Asker, key: SessionKey, index: int, names: set[str], begins: bool, runs: bool) -> None:
        entry = self.waiting(key, index)
        owner = self.owner(asker, entry)
        stood = self.standing(key, entry.number)
        entry = replace(
            entry,
            skip=False,
            # Only what stands is laid to rest without an attempt: else it has begun.
            attempts=entry.attempts + (begins or stood is None),
            awaits=tuple(sorted(f"{entry.message_id}/{name}" for name in names)),
            running=None,
            suspended=self.now,
        )
        marked = stood is not None and stood.running == owner.mark
        answer = self.run(
            lambda store: store.suspend(owner, key, entry, b"suspended", runs=runs),
            owner,
            marked=marked,
            body=b"suspended",
        )
        waits = self.standing(key, entry.number)
        if answer is True and waits is not None and waits != stood:
            assert self.loaded(key).inbox[0] == replace(entry, starts=0)

    @rule(asker=askers, busy=st.sampled_from([(), (), (KEYS[0],)]))
    def due(self, asker: Asker, busy: Sequence[SessionKey]) -> None:
        owner = self.owner(asker)
        before = self.sessions
        answer = self.run(lambda store: self._due(store, owner, busy), owner, same_answer=False)
        if not isinstance(answer, Due):
            return
        for key in KEYS:
            stood = {entry.number for entry in before[key].loaded.inbox}
            fresh = [entry for entry in self.loaded(key).inbox if entry.number not in stood]
            assert all(entry.placed <= self.time.now() and not entry.due for entry in fresh)
            assert (key in answer.sessions) == (fresh != [] or self.sessions[key].promises != before[key].promises)
            assert not any(self.lapsed(promise) for promise in self.sessions[key].promises)

    async def _due(self, store: StateStore, owner: Owner, busy: Sequence[SessionKey]) -> Due:
        due = await store.due(owner, busy)
        return Due(sorted(due.sessions, key=lambda key: key.path), due.following)

    @rule(
        key=keys,
        id_=ids,
        name=st.sampled_from("ppq"),
        state=st.sampled_from([promise_pb2.PROMISE_STATE_RESOLVED, promise_pb2.PROMISE_STATE_REJECTED]),
        settlement=st.sampled_from("12"),
    )
    def settle_promise(
        self, key: SessionKey, id_: str, name: str, state: promise_pb2.PromiseState.ValueType, settlement: str
    ) -> None:
        made = [promise.id for promise in self.sessions[key].promises]
        asked = made[IDS.index(id_) % len(made)] if made else f"{id_}/{name}"
        given = Settlement(asked, settlement, state, settlement.encode(), "boss")
        answer = self.run(lambda store: store.settle_promise(key, given))
        stands = {promise.id: promise for promise in self.sessions[key].promises}.get(asked)
        assert (stands is None) == (isinstance(answer, tuple) and answer[0] is KeyError)
        if answer == promise_pb2.SETTLEMENT_ANSWER_APPLIED:
            assert stands is not None
            assert stands.settlement_id == settlement

    @rule(seconds=st.sampled_from([30.0, 100.0, 1_000.0, 8_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.time.advance(seconds)
        self.now += seconds

    # --- values

    def comes(self, after: float) -> float:
        """A time that no other thing on the schedule has: such have no order."""
        self.moments += 1
        return self.time.now() + after + self.moments / 1_000

    def asked(self, attempt: Attempt, names: set[str]) -> list[Promise]:
        """One has a time, the other has none."""
        return [
            Promise(
                f"{attempt.message_id}/{name}",
                name,
                attempt.message_id,
                self.now,
                expires=self.started + 5_000.0 + ALL_IDS.index(attempt.message_id) if name == "p" else 0.0,
                tokens=(f"{attempt.index} {name}".encode(),),
            )
            for name in sorted(names)
        ]

    def reminders(self, version: int, name: str, after: float, every: float) -> list[Reminder]:
        stream = f"reminder/{name}/{version}"
        return [Reminder(name, stream, self.comes(after), every, name.encode(), REMINDED)]

    def lapsed(self, promise: Promise) -> bool:
        return promise.state == OPEN and 0 < promise.expires <= self.time.now()

    # --- what must never happen

    @invariant()
    def what_rests_waits_for_something(self) -> None:
        for key, session in getattr(self, "sessions", {}).items():
            loaded = session.loaded
            held = [entry for entry in loaded.inbox if not entry.skip and self.holds(entry, key)]
            assert held or key in self.claimed.due or not loaded.inbox

    def holds(self, entry: Entry, key: SessionKey) -> bool:
        verbs = self.loaded(key).verbs
        return entry.message_id not in verbs.cancelled and bool(entry.awaits or entry.message_id in verbs.paused)

    @invariant()
    def what_awaits_has_only_open_promises(self) -> None:
        for session in getattr(self, "sessions", {}).values():
            open_ = {promise.id for promise in session.promises if promise.state == OPEN}
            for entry in session.loaded.inbox:
                assert set(entry.awaits) <= open_

    @invariant()
    def what_a_verb_binds_is_not_settled(self) -> None:
        for session in getattr(self, "sessions", {}).values():
            verbs = session.loaded.verbs
            assert verbs.killed <= verbs.cancelled
            for id_ in verbs.cancelled | verbs.paused:
                kept = session.records[id_]
                assert kept is None or kept.fate in (DEAD, EXPIRED)

    @invariant()
    def what_is_settled_for_good_promises_nothing(self) -> None:
        for session in getattr(self, "sessions", {}).values():
            for promise in session.promises:
                kept = session.records.get(promise.message_id)
                assert promise.state != OPEN or kept is None or kept.fate in (DEAD, EXPIRED)

    @invariant()
    def no_reminder_comes_while_one_waits(self) -> None:
        for session in getattr(self, "sessions", {}).values():
            streams = [entry.number.stream for entry in session.loaded.inbox if entry.number.stream.startswith("r")]
            assert len(streams) == len(set(streams))
