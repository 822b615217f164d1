"""The keys of the Redis state store: all of a shard in one hash slot, none left behind, none half written."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from support import redis_server
from support.state_stores import CANCELLED, DEAD, KEY, NOW, OWNER, attempt, commit, entry, envelope, number, record

from troupe.chassis.errors import DataLoss
from troupe.dataplane.state.connect import connected
from troupe.dataplane.state.port import RECORD_KEPT, Outgoing, StateStore, begun

SENT = Outgoing("default/default/clerk/bob", number(1, "ada"), b"sent")
SESSION = ("talk", "inbox", "envelope", "record", "settled", "awaited", "verb", "journaled", "history", "outbox")
KINDS = (
    *("fence", "busy", "backlog", "sessions", "idle", "due"),
    *(f"{kind}:{KEY.path}" for kind in SESSION),
    *(f"journal:{KEY.path}/{message_id}" for message_id in ("m2", "m9")),
)
"""Every key that the session below has, without what all begin with."""

Script = Callable[[StateStore], Awaitable[Any]]
SCRIPTS: dict[str, Script] = {
    "claim": lambda store: store.claim(replace(OWNER, epoch=6)),
    "put": lambda store: store.put(OWNER, KEY, entry(5), b"new"),
    "put a copy": lambda store: store.put(OWNER, KEY, entry(1, "m2", stream="third"), b"new"),
    "put what was cancelled": lambda store: store.put(OWNER, KEY, entry(1, "unknown", stream="third"), b"new"),
    "begin": lambda store: store.begin(OWNER, KEY, entry(4)),
    "take over": lambda store: store.take_over(OWNER, KEY, number(3), OWNER.mark),
    "journal": lambda store: store.journal(OWNER, KEY, attempt(entry(2)), {"b": b"2"}, starts=True),
    "retry": lambda store: store.retry(OWNER, KEY, replace(begun(entry(2)), starts=0, failures=1), b""),
    "retry of what never waited": lambda store: store.retry(
        OWNER, KEY, replace(entry(1, "mx", stream="third"), attempts=1, failures=1), b"again"
    ),
    "commit": lambda store: store.commit(OWNER, sending(commit(entry(2), record(), 1))),
    "commit of what never waited": lambda store: store.commit(
        OWNER, sending(commit(entry(1, "mx", stream="third"), record(), 1))
    ),
    "commit CANCELLED": lambda store: store.commit(OWNER, commit(entry(2), record(CANCELLED))),
    "commit DEAD": lambda store: store.commit(OWNER, commit(entry(2), record(DEAD))),
    "commit of a number": lambda store: store.commit(OWNER, commit(entry(1, "m1", stream="third"), None)),
    "pass over": lambda store: store.pass_over(OWNER, KEY, number(1, "third"), 1, NOW),
    "strike": lambda store: store.strike(OWNER, KEY, [SENT.number]),
    "delete": lambda store: store.delete(OWNER, KEY, {"m4": record(CANCELLED)}, NOW),
    "cancel": lambda store: store.cancel(KEY, "m4", "v", record(CANCELLED), NOW),
    "redrive": lambda store: store.redrive(KEY, "m9", number(1, "once more")),
    "purge": lambda store: store.purge(KEY, "m9"),
}


def sending(turn: Any) -> Any:
    return replace(turn, outbox=[replace(SENT, number=number(2, "ada"))])


async def given_session(store: StateStore) -> None:
    """m1 is DONE and sent something; m2 waits twice, has begun and journaled; m3 runs elsewhere; m4 waits; m9 is DEAD
    and comes again; what nobody knows was cancelled."""
    await store.declare(1)
    await store.commit(OWNER, replace(commit(entry(1), record()), outbox=[SENT]))
    await store.put(OWNER, KEY, entry(2), envelope(entry(2)))
    await store.put(OWNER, KEY, replace(entry(3), running=OWNER.mark), envelope(entry(3)))
    await store.put(OWNER, KEY, entry(4), envelope(entry(4)))
    await store.put(OWNER, KEY, replace(entry(1, "m2", stream="running"), running=OWNER.mark), b"")
    await store.begin(OWNER, KEY, entry(2))
    await store.journal(OWNER, KEY, attempt(entry(2)), {"a": b"1"}, starts=True)
    await store.cancel(KEY, "unknown", "v", record(CANCELLED), NOW)
    await store.journal(OWNER, KEY, attempt(entry(1, "m9", stream="other")), {"a": b"1"}, starts=True)
    await store.commit(OWNER, commit(entry(1, "m9", stream="other"), record(DEAD)))
    await store.redrive(KEY, "m9", number(1, "again"))


class Keys:
    """All that begins with a prefix, as the server itself shows it."""

    def __init__(self, url: str, prefix: str) -> None:
        self._client = redis.Redis.from_url(url.partition("?")[0])
        self._prefix = f"{prefix}:"

    def held(self) -> dict[str, bytes | None]:
        names = sorted(self._client.scan_iter(match=f"{self._prefix}*", count=1000))
        return {name.decode().removeprefix(self._prefix): self._client.dump(name) for name in names}

    def spoil(self, key: str) -> None:
        """Another program writes a key of another kind there."""
        kind = self._client.type(self._prefix + key)
        self._client.delete(self._prefix + key)
        if kind == b"string":
            self._client.lpush(self._prefix + key, "foreign")
        else:
            self._client.set(self._prefix + key, "foreign")

    def drop(self) -> None:
        for key in self.held():
            self._client.delete(self._prefix + key)

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def keys(prefix: str) -> Iterator[Keys]:
    server = redis_server.shared()
    found = Keys(server.url(prefix), server.prefix(prefix))
    yield found
    found.close()


async def test_a_session_has_these_keys_in_the_slot_of_its_shard(prefix: str, keys: Keys) -> None:
    async with connected(redis_server.shared().url(prefix)) as store:
        await given_session(store)

    assert set(keys.held()) == {"shards", *("{0}:" + kind for kind in KINDS)}


@pytest.mark.parametrize("script", SCRIPTS)
async def test_a_script_that_meets_a_foreign_key_changes_nothing(prefix: str, keys: Keys, script: str) -> None:
    refused = []
    async with connected(redis_server.shared().url(prefix)) as store:
        for kind in KINDS:
            keys.drop()
            await given_session(store)
            keys.spoil("{0}:" + kind)
            before = keys.held()

            try:
                await SCRIPTS[script](store)
            except DataLoss:
                refused.append(kind)
                assert keys.held() == before, kind

    assert refused


async def test_what_was_forgotten_leaves_no_key(prefix: str, keys: Keys) -> None:
    async with connected(redis_server.shared().url(prefix)) as store:
        await given_session(store)
        # Given that everything was settled, struck and purged
        await store.commit(OWNER, commit(entry(2), record(), 1))
        await store.commit(OWNER, replace(commit(entry(3), record(), 2), attempt=-1))
        await store.commit(OWNER, commit(entry(4), record(), 3))
        await store.commit(OWNER, commit(entry(1, "m2", stream="running"), None))
        await store.strike(OWNER, KEY, [SENT.number])
        await store.commit(OWNER, commit(entry(1, "m9", stream="again"), record(DEAD)))
        await store.purge(KEY, "m9")

        await store.forget(NOW + RECORD_KEPT + 1, NOW + 1)

    assert set(keys.held()) == {"shards", "{0}:fence", "{0}:backlog"}
