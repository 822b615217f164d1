"""A process that settles messages on a SQLite state store until it is killed, and says which it has settled.

Run as `python -m support.state_writer FILE EPOCH`; it prints `SESSION NUMBER` when a commit has returned. What it
writes depends on session and number alone, so that whoever finds the file knows what must be in it.
"""

import asyncio
import random
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from support.state_stores import DEAD, DONE, entry, envelope

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Position
from troupe.dataplane.state.port import Owner, Record, StateStore, TurnCommit
from troupe.dataplane.state.sqlite import SqliteStateStore

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


def steps(number: int) -> Mapping[str, bytes]:
    return {"model": f"answer {number}".encode(), "tool": b""}


def owner(epoch: int) -> Owner:
    return Owner(0, epoch, f"worker-1.{epoch}")


async def write(file: Path, epoch: int) -> None:
    async with SqliteStateStore.opened(file) as store, asyncio.TaskGroup() as tasks:
        await store.claim(owner(epoch))
        for key in SESSIONS:
            tasks.create_task(_settle_for_ever(store, owner(epoch), key))


async def _settle_for_ever(store: StateStore, owner: Owner, key: SessionKey) -> None:
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
        if number in waiting:
            await store.begin(owner, key, waiting.pop(number))
        if dice.random() < 0.5:
            await store.journal(owner, key, f"m{number}", steps(number), starts=True)
        done = TurnCommit(
            key=key,
            number=entry(number).number,
            message_id=f"m{number}",
            record=fate(number),
            version=version(number - 1),
            state=state(key, version(number)),
            history=delta(key, version(number)),
            usage=f"{version(number)}".encode(),
            now=float(number),
        )
        await store.commit(owner, done if number % 5 else replace(done, state=None, history=None, usage=None))
        sys.stdout.write(f"{key.session} {number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), int(sys.argv[2])))
