"""What settles messages on a state store until it, or the store, is killed, and says which it has settled.

Run as `python -m support.state_writer URL EPOCH`; it prints `SESSION NUMBER` when a commit has returned. What it
writes depends on session and number alone, so that whoever finds the store knows what must be in it.
"""

import asyncio
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace

from support.state_stores import DEAD, DONE, attempt, entry, envelope, outgoing

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Position
from troupe.dataplane.state.connect import connected
from troupe.dataplane.state.port import StateStore, TurnCommit
from troupe.dataplane.state.session import Outgoing, Owner, Record

KEPT = 3
"""Of the newest messages sent, which are never struck."""
SESSIONS = [SessionKey("default", "default", "clerk", f"s{number}") for number in range(12)]


def version(number: int) -> int:
    """Of the session after its `number`th message: every fifth ends DEAD and changes nothing."""
    return number - number // 5


def fate(number: int) -> Record:
    return Record(DEAD if number % 5 == 0 else DONE, f"status {number}".encode() * 20, digest=f"m{number}".encode())


def state(key: SessionKey, version: int) -> bytes:
    return f"{key} {version} ".encode() * 60 if version else b""


def delta(key: SessionKey, version: int) -> bytes:
    return f"{key} delta {version}".encode()


def sent(version: int) -> Outgoing:
    """What the turn that made this version sent."""
    return outgoing(version)


def steps(number: int) -> Mapping[str, bytes]:
    return {"model": f"answer {number}".encode(), "tool": b""}


def owner(epoch: int) -> Owner:
    return Owner(0, epoch, f"worker-1.{epoch}")


async def write(url: str, epoch: int, told: Callable[[str, int], None]) -> None:
    """Settle messages of all sessions for ever; `told` gets session and number of each that the store has settled."""
    async with connected(url) as store, asyncio.TaskGroup() as tasks:
        await store.declare(1)
        await store.claim(owner(epoch))
        for key in SESSIONS:
            tasks.create_task(_settle_for_ever(store, owner(epoch), key, told))


async def _settle_for_ever(store: StateStore, owner: Owner, key: SessionKey, told: Callable[[str, int], None]) -> None:
    loaded = await store.load(key)
    number = loaded.positions.get("gateway", Position()).settled
    waiting = {found.number.sequence: found for found in loaded.inbox}
    dice = random.Random()
    while True:
        number += 1
        if number not in waiting and dice.random() < 0.5:
            for ahead in range(number, number + dice.randint(1, 3)):
                if ahead not in waiting:
                    waiting[ahead] = entry(ahead)
                    await store.put(owner, key, waiting[ahead], envelope(waiting[ahead]))
        tried = 0
        if number in waiting:
            tried = waiting[number].attempts
            await store.begin(owner, key, waiting.pop(number))
        if dice.random() < 0.5:
            await store.journal(owner, key, attempt(entry(number), tried), steps(number), starts=True)
        done = TurnCommit(
            key=key,
            number=entry(number).number,
            message_id=f"m{number}",
            record=fate(number),
            version=version(number - 1),
            state=state(key, version(number)),
            history=delta(key, version(number)),
            usage=f"{version(number)}".encode(),
            attempt=tried,
            outbox=[sent(version(number))],
            now=float(number),
        )
        await store.commit(owner, done if number % 5 else replace(done, state=None, history=None, usage=None))
        told(key.session, number)
        if dice.random() < 0.5:
            await store.strike(owner, key, [sent(struck).number for struck in range(1, version(number) - KEPT + 1)])


def _say(session: str, number: int) -> None:
    sys.stdout.write(f"{session} {number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1], int(sys.argv[2]), _say))
