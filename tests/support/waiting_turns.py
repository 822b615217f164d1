"""What drives turns that wait on a state store, round after round, until it, or the store, is killed.

Run as `python -m support.waiting_turns URL EPOCH`; it prints `SESSION ROUND` when a round's last commit has returned.
The session's version is the last round that was committed. What a round does depends on its number alone, and a round
that was broken off goes on where it stands, so whoever finds the store knows what must be in it: see `check`.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from support.state_stores import (
    CANCELLED,
    DONE,
    attempt,
    cancel,
    commit,
    entry,
    envelope,
    pause,
    promise,
    record,
    reminder,
    resume,
    settlement,
    verb,
)

from troupe.broker.addressing import SessionKey
from troupe.dataplane.state.connect import connected
from troupe.dataplane.state.control import Control, Promise, Restart
from troupe.dataplane.state.errors import PauseRecorded
from troupe.dataplane.state.port import Companion, StateStore
from troupe.dataplane.state.session import Entry, Owner, begun
from troupe.v1 import agent_pb2, promise_pb2, turn_pb2

SESSIONS = [SessionKey("default", "default", "clerk", f"s{number}") for number in range(8)]
KINDS = 5
"""Of rounds."""
DID = {"did": b"this"}
"""What a message is known to have done that goes on for another."""
YEARS = 10 * 365 * 24 * 3600.0


def owner(epoch: int) -> Owner:
    return Owner(0, epoch, f"worker-1.{epoch}")


def messages(number: int) -> Sequence[Entry]:
    """Of one round: the first is what its turn is for."""
    return [entry(1, f"m{number}.{name}", stream=f"{number}.{name}") for name in range(3 if number % KINDS == 2 else 1)]


def going_on(number: int) -> Entry:
    """What goes on for the first message of a round of a RESTART."""
    return replace(entry(1, f"r{number}", stream=f"restart/{number}"), digest=messages(number)[0].digest)


def restart(number: int, seen: int) -> Control:
    (first,), new = messages(number), going_on(number)
    order = verb(agent_pb2.VERB_RESTART, first.message_id, f"restart {number}")
    return replace(order, restart=Restart(new, envelope(new), DID, frozenset(), seen))


def extra(number: int) -> Entry:
    """What a round of verbs cancels where it waits."""
    return entry(1, f"x{number}", stream=f"x{number}")


def promised(number: int) -> Promise:
    return promise(message_id=f"m{number}.0")


class Driver:
    """One session."""

    def __init__(self, store: StateStore, owner: Owner, key: SessionKey) -> None:
        self._store, self._owner, self._key = store, owner, key

    async def run(self, told: Callable[[str, int], None]) -> None:
        number = (await self._store.load(self._key)).version
        while True:
            number += 1
            match number % KINDS:
                case 0:
                    await self._of_a_promise(number)
                case 1:
                    await self._of_the_schedule(number)
                case 2:
                    await self._of_a_batch(number)
                case 3:
                    await self._of_verbs(number)
                case 4:
                    await self._of_a_restart(number)
            told(self._key.session, number)

    async def _of_a_promise(self, number: int) -> None:
        (first,) = messages(number)
        await self._put(first)
        waits, made = await self._begin(first), promised(number)
        if not waits.awaits:
            tried, steps = attempt(first, waits.attempts - 1), {"ask": b"started"}
            await self._store.journal(self._owner, self._key, tried, steps, starts=True, promises=[made])
            await self._suspend(waits, made.id)
        await self._store.settle_promise(self._key, settlement(made))
        await self._commit(await self._begin(first), number)

    async def _of_the_schedule(self, number: int) -> None:
        (first,) = messages(number)
        await self._put(replace(first, due=time.time() + 0.005))
        while (await self._store.waiting(self._key, first.message_id) or first).due:
            await self._store.due(self._owner)
            await asyncio.sleep(0.001)
        await self._commit(await self._begin(first), number, remind=[reminder(time.time() + YEARS, id_=str(number))])

    async def _of_a_batch(self, number: int) -> None:
        for each in messages(number):
            await self._put(each)
        first, *others = [await self._begin(each) for each in messages(number)]
        companions = [Companion(each.number, each.message_id, each.attempts - 1, record()) for each in others]
        await self._commit(first, number, companions=companions)

    async def _of_verbs(self, number: int) -> None:
        (first,), other = messages(number), extra(number)
        await self._put(first)
        waits = await self._begin(first)
        await self._put(other)
        await self._store.control(self._key, cancel(other.message_id, f"cancel {number}"))
        await self._store.control(self._key, pause(first.message_id, f"pause {number}"))
        await self._suspend(waits)
        await self._store.control(self._key, resume(first.message_id, f"resume {number}"))
        await self._store.commit(self._owner, commit(other, None, key=self._key))
        await self._commit(await self._begin(first), number)

    async def _of_a_restart(self, number: int) -> None:
        (first,), new = messages(number), going_on(number)
        if await self._store.record(self._key, first.message_id) is None:
            await self._put(first)
            waits = await self._begin(first)
            await self._store.journal(
                self._owner, self._key, attempt(first, waits.attempts - 1), {**DID, "more": b""}, starts=True
            )
            await self._store.retry(self._owner, self._key, replace(waits, starts=0), envelope(first))
        found = await self._store.resting(self._key, first.message_id)
        await self._store.control(self._key, restart(number, found.steps if found else 0))
        while (await self._store.waiting(self._key, new.message_id) or replace(new, due=1.0)).due:
            await self._store.due(self._owner)
        for skip in (await self._store.load(self._key)).inbox:
            if skip.message_id == first.message_id:
                settles = replace(commit(first, None, key=self._key), attempt=skip.attempts)
                await self._store.commit(self._owner, settles)
        await self._commit(await self._begin(new), number)

    async def _put(self, placing: Entry) -> None:
        await self._store.put(self._owner, self._key, placing, envelope(placing))

    async def _begin(self, begins: Entry) -> Entry:
        """What waits then; as it is where it has begun, or waits for something."""
        waits = await self._store.waiting(self._key, begins.message_id) or begins
        if waits.starts == 0 and not waits.awaits:
            with contextlib.suppress(PauseRecorded):
                await self._store.begin(self._owner, self._key, waits)
                return begun(waits)
        return waits

    async def _suspend(self, waits: Entry, *ids: str) -> None:
        suspended = replace(waits, starts=0, awaits=ids, suspended=time.time())
        await self._store.suspend(self._owner, self._key, suspended, b"")

    async def _commit(self, first: Entry, number: int, **more: object) -> None:
        done = commit(first, record(), number - 1, key=self._key)
        await self._store.commit(self._owner, replace(done, attempt=first.attempts - 1, **more))  # type: ignore[arg-type]


async def drive(url: str, epoch: int, told: Callable[[str, int], None]) -> None:
    """Turns of all sessions for ever; `told` gets session and round of each that the store has committed."""
    async with connected(url) as store, asyncio.TaskGroup() as tasks:
        await store.declare(1)
        await store.claim(owner(epoch))
        for key in SESSIONS:
            tasks.create_task(Driver(store, owner(epoch), key).run(told))


async def check(store: StateStore, epoch: int, key: SessionKey, told: int) -> int:
    """Everything of the session is as its rounds left it; how many are committed, at least those that were told."""
    loaded = await store.load(key)
    done = loaded.version
    assert done >= told
    inbox = {found.message_id: found for found in loaded.inbox}
    listed = {
        found.message_id: (found, fate)
        for other, found, fate in await store.messages(0, key.path, None, 1_000)
        if other == key
    }

    # What is committed has left nothing but its record
    for number in range(1, done + 1):
        restarted = number % KINDS == 4
        for each in [*messages(number), *([going_on(number)] if restarted else [])]:
            ended = CANCELLED if restarted and each in messages(number) else DONE
            kept = await store.record(key, each.message_id)
            assert kept is not None
            assert kept.fate == ended
            assert each.message_id not in {*inbox, *listed, *loaded.journaled}
            assert each.message_id not in loaded.verbs.paused
        if number % KINDS == 0:
            settled = await store.promise(key, promised(number).id)
            assert settled is not None
            assert (settled.state, settled.value) == (promise_pb2.PROMISE_STATE_RESOLVED, b"yes")
        if number % KINDS == 3:
            assert await store.record(key, extra(number).message_id) == record(CANCELLED, extra(number).message_id)
            assert extra(number).message_id not in loaded.verbs.cancelled

    # Of the next round, whatever stands in one place stands so in all
    number = done + 1
    first, other_ = messages(number)[0].message_id, going_on(number).message_id
    waits, records = listed.get(first), [await store.record(key, each.message_id) for each in messages(number)]
    restarted = number % KINDS == 4 and records != [None]
    assert restarted or not any(records)
    assert restarted == (other_ in listed) == (other_ in loaded.journaled)
    if restarted:
        assert first not in {*listed, *loaded.journaled}
    made = await store.promise(key, promised(number).id)
    assert (made is not None) == (first in loaded.journaled and number % KINDS == 0)
    if waits is not None and waits[0].awaits:
        assert made is not None
        assert made.state == promise_pb2.PROMISE_STATE_OPEN
        assert waits[0].starts == 0
    assert {id_ for id_, (found, _) in listed.items() if not found.due} == {
        found.message_id for found in loaded.inbox if not found.skip
    }
    assert first not in inbox or waits is None or not waits[0].due
    assert loaded.verbs.paused == frozenset({first} if waits and waits[1] == turn_pb2.FATE_PAUSED else ())
    other = inbox.get(extra(number).message_id)
    assert other is None or other.skip == (await store.record(key, other.message_id) is not None)

    # What can go on is found, and only that
    claimed = await store.claim(owner(epoch))
    head = loaded.inbox[0] if loaded.inbox else None
    rests = head is not None and head.suspended > 0 and bool(head.awaits or head.message_id in loaded.verbs.paused)
    assert (key in claimed.due) == (head is not None and not rests)
    assert (key in claimed.verbs) == (bool(loaded.verbs.paused) and not rests)
    if (summary := await store.summary(key)) is not None:
        assert summary.scheduled == sum(bool(found.due) for found, _ in listed.values()) + 1
    return done


def _say(session: str, number: int) -> None:
    sys.stdout.write(f"{session} {number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(drive(sys.argv[1], int(sys.argv[2]), _say))
