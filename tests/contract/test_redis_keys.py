"""The keys of the Redis state store: all of a shard in one hash slot, none left behind, none half written."""

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from support import redis_server
from support.state_stores import (
    CANCELLED,
    DEAD,
    KEY,
    NOW,
    OWNER,
    attempt,
    cancel,
    commit,
    entry,
    envelope,
    number,
    pause,
    promise,
    record,
    reminder,
    resume,
    settlement,
    verb,
)

from troupe.chassis.errors import DataLoss
from troupe.dataplane.state.connect import connected
from troupe.dataplane.state.control import Control, Restart
from troupe.dataplane.state.port import Companion, StateStore
from troupe.dataplane.state.session import RECORD_KEPT, RETENTION, Entry, Outgoing, begun
from troupe.v1.agent_pb2 import VERB_RESTART

SENT = Outgoing("default/default/clerk/bob", number(1, "ada"), b"sent")
IDLE = replace(KEY, session="idle")
HOUR = 3600.0
OVERDUE = promise("overdue", "m2", expires=NOW)
OPEN = promise("open", "m2", expires=time.time() + HOUR)
SESSION = (
    *("talk", "inbox", "envelope", "record", "settled", "awaited", "verb", "bound", "journaled", "history", "outbox"),
    *("scheduled", "promised"),
)
KINDS = (
    *("fence", "busy", "backlog", "sessions", "idle", "old", "schedule", "waiting", "open", "asked", "unobeyed"),
    *(f"{kind}:{KEY.path}" for kind in SESSION),
    *(f"journal:{KEY.path}/{message_id}" for message_id in ("m2", "m9", "m11")),
)
"""Every key that the session below has, without what all begin with."""

Script = Callable[[StateStore], Awaitable[Any]]
SCRIPTS: dict[str, Script] = {
    "claim": lambda store: store.claim(replace(OWNER, epoch=6)),
    "due": lambda store: store.due(OWNER),
    "put": lambda store: store.put(OWNER, KEY, entry(7), b"new"),
    "put a copy": lambda store: store.put(OWNER, KEY, entry(1, "m2", stream="third"), b"new"),
    "put what was cancelled": lambda store: store.put(OWNER, KEY, entry(1, "unknown", stream="third"), b"new"),
    "put for later": lambda store: store.put(OWNER, KEY, later("mx"), b"new"),
    "put what refuses to wait": lambda store: store.put(
        OWNER, KEY, replace(entry(1, "mx", stream="third"), rejection=b"busy"), b"new"
    ),
    "begin": lambda store: store.begin(OWNER, KEY, entry(4)),
    "take over": lambda store: store.take_over(OWNER, KEY, number(3), OWNER.mark),
    "journal": lambda store: store.journal(OWNER, KEY, attempt(entry(2)), {"b": b"2"}, starts=True),
    "journal a promise": lambda store: store.journal(
        OWNER, KEY, attempt(entry(2)), {"b": b"2"}, starts=True, promises=[promise("other", "m2", expires=NOW)]
    ),
    "suspend": lambda store: store.suspend(
        OWNER, KEY, replace(begun(entry(2)), awaits=(OPEN.id,), suspended=NOW), envelope(entry(2))
    ),
    "suspend what never waited": lambda store: store.suspend(
        OWNER, KEY, replace(begun(entry(1, "m6", stream="third")), suspended=NOW), b"paused"
    ),
    "retry": lambda store: store.retry(OWNER, KEY, replace(begun(entry(2)), starts=0, failures=1), b""),
    "retry of what never waited": lambda store: store.retry(
        OWNER, KEY, replace(entry(1, "mx", stream="third"), attempts=1, failures=1), b"again"
    ),
    "commit": lambda store: store.commit(OWNER, sending(commit(entry(2), record(), 1))),
    "commit of what waits": lambda store: store.commit(
        OWNER, sending(commit(entry(1, "m5", stream="fifth"), record(), 1))
    ),
    "commit of what never waited": lambda store: store.commit(
        OWNER, sending(commit(entry(1, "mx", stream="third"), record(), 1))
    ),
    "commit of what never waited and was journaled": lambda store: store.commit(
        OWNER, commit(entry(1, "m10", stream="third"), record(), 1)
    ),
    "commit a batch": lambda store: store.commit(
        OWNER,
        replace(
            commit(entry(2), record(), 1),
            companions=[Companion(number(1, "fifth"), "m5", 0, record())],
        ),
    ),
    "commit reminders": lambda store: store.commit(
        OWNER,
        replace(
            commit(entry(1, "mx", stream="third"), record(), 1),
            snapshot=b"all",
            remind=[reminder(NOW, "milk")],
            forget_reminders=["tea"],
        ),
    ),
    "commit CANCELLED": lambda store: store.commit(OWNER, commit(entry(2), record(CANCELLED))),
    "commit DEAD": lambda store: store.commit(OWNER, commit(entry(2), record(DEAD))),
    "commit of a number": lambda store: store.commit(OWNER, commit(entry(1, "m1", stream="third"), None)),
    "pass over": lambda store: store.pass_over(OWNER, KEY, number(1, "third"), 1, NOW),
    "strike": lambda store: store.strike(OWNER, KEY, [SENT.number]),
    "delete": lambda store: store.delete(OWNER, KEY, {"m4": record(CANCELLED), "later": record(CANCELLED)}, NOW),
    "cancel": lambda store: store.control(KEY, cancel("m4", "v")),
    "cancel what is scheduled": lambda store: store.control(KEY, cancel("later", "v")),
    "cancel what nobody knows": lambda store: store.control(KEY, cancel("mx", "v")),
    "pause": lambda store: store.control(KEY, pause("m2")),
    "resume": lambda store: store.control(KEY, resume("m6")),
    "restart": lambda store: store.control(KEY, restart("m4", 0)),
    "restart what is dead": lambda store: store.control(KEY, restart("m11", 1)),
    "settle a promise": lambda store: store.settle_promise(KEY, settlement(OPEN)),
    "settle a promise too late": lambda store: store.settle_promise(KEY, settlement(OVERDUE)),
    "redrive": lambda store: store.redrive(KEY, "m9", number(1, "once more")),
    "purge": lambda store: store.purge(KEY, "m9"),
}


def restart(message_id: str, seen: int) -> Control:
    to = Restart(entry(1, "mx", stream="third"), b"new", {"a": b"1"}, frozenset({"m11/given"}), seen)
    return replace(verb(VERB_RESTART, message_id, "v"), restart=to)


def later(message_id: str) -> Entry:
    return replace(entry(1, message_id, stream=message_id), due=time.time() + HOUR)


def sending(turn: Any) -> Any:
    return replace(turn, outbox=[replace(SENT, number=number(2, "ada"))])


async def given_session(store: StateStore) -> None:
    """m1 is DONE, sent something and set a reminder, which is due; m2 waits twice, has begun, journaled and promised;
    m3 runs elsewhere; m4 and m5 wait; m6 is paused; m9 is DEAD and comes again, m11 is DEAD; m10 was journaled; one
    message is scheduled, and another was, until it was cancelled; what nobody knows was cancelled."""
    await store.declare(1)
    await store.commit(OWNER, replace(commit(entry(1), record()), outbox=[SENT], remind=[reminder(NOW)]))
    await store.put(OWNER, KEY, entry(2), envelope(entry(2)))
    await store.put(OWNER, KEY, replace(entry(3), running=OWNER.mark), envelope(entry(3)))
    await store.put(OWNER, KEY, entry(4), envelope(entry(4)))
    await store.put(OWNER, KEY, entry(1, "m5", stream="fifth"), b"")
    await store.put(OWNER, KEY, replace(entry(1, "m2", stream="running"), running=OWNER.mark), b"")
    await store.begin(OWNER, KEY, entry(2))
    await store.journal(OWNER, KEY, attempt(entry(2)), {"a": b"1"}, starts=True, promises=[OVERDUE, OPEN])
    await store.control(KEY, cancel("unknown", "v"))
    await store.control(KEY, pause("m6"))
    await store.journal(OWNER, KEY, attempt(entry(1, "m9", stream="other")), {"a": b"1"}, starts=True)
    await store.commit(OWNER, commit(entry(1, "m9", stream="other"), record(DEAD)))
    await store.redrive(KEY, "m9", number(1, "again"))
    await store.journal(
        OWNER,
        KEY,
        attempt(entry(1, "m11", stream="eleventh")),
        {"a": b"1"},
        starts=True,
        promises=[promise("given", "m11")],
    )
    await store.commit(OWNER, commit(entry(1, "m11", stream="eleventh"), record(DEAD)))
    for message_id in ("later", "called off"):
        await store.put(OWNER, KEY, later(message_id), b"")
    await store.control(KEY, cancel("called off", "v"))


async def given_idle_session(store: StateStore) -> None:
    """Nothing is left to do; its time is over a second after NOW."""
    await store.declare(1)
    await store.commit(OWNER, replace(commit(entry(1), record(), key=IDLE), retention=1.0))
    await store.journal(OWNER, IDLE, attempt(entry(2)), {"a": b"1"}, starts=True, promises=[OPEN])


class Keys:
    """All that begins with a prefix, as the server itself shows it."""

    def __init__(self, url: str, prefix: str) -> None:
        self._client: Any = redis.Redis.from_url(url.partition("?")[0])
        self._prefix = f"{prefix}:"

    def held(self) -> dict[str, object]:
        """What each holds, by its name without the prefix."""
        read = {
            b"string": self._client.get,
            b"hash": self._client.hgetall,
            b"set": self._client.smembers,
            b"list": lambda name: self._client.lrange(name, 0, -1),
            b"zset": lambda name: self._client.zrange(name, 0, -1, withscores=True),
        }
        return {name.removeprefix(self._prefix): read[self._client.type(name)](name) for name in self._names()}

    def dumped(self) -> dict[str, bytes]:
        return {name: self._client.dump(name) for name in self._names()}

    def become(self, dumped: Mapping[str, bytes]) -> None:
        """All is again as it was when it was dumped."""
        with self._client.pipeline() as pipeline:
            for name in self._names():
                pipeline.delete(name)
            for name, content in dumped.items():
                pipeline.restore(name, 0, content)
            pipeline.execute()

    def _names(self) -> list[str]:
        return [name.decode() for name in self._client.scan_iter(match=f"{self._prefix}*", count=1000)]

    def spoil(self, key: str) -> None:
        """Another program writes a key of another kind there."""
        kind = self._client.type(self._prefix + key)
        self._client.delete(self._prefix + key)
        if kind == b"string":
            self._client.lpush(self._prefix + key, "foreign")
        else:
            self._client.set(self._prefix + key, "foreign")

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
    async with connected(redis_server.shared().url(prefix)) as store:
        assert await refused_for(store, keys, given_session, SCRIPTS[script])


async def test_what_is_old_goes_from_whole_sessions(prefix: str, keys: Keys) -> None:
    async with connected(redis_server.shared().url(prefix)) as store:
        # The key `idle` is looked at in a script of its own, behind these
        assert await refused_for(
            store, keys, given_session, lambda store: store.forget(NOW + RECORD_KEPT + 1), but=("idle",)
        )


async def test_a_session_whose_time_is_over_goes_whole(prefix: str, keys: Keys) -> None:
    async with connected(redis_server.shared().url(prefix)) as store:
        refused = await refused_for(store, keys, given_idle_session, lambda store: store.forget(NOW + 2))

        assert {f"{kind}:{IDLE.path}" for kind in ("talk", "history", "journaled", "promised")} <= set(refused)
        await store.forget(NOW + 2)
        assert (await store.load(IDLE)).version == 0
        assert await store.promise(IDLE, OPEN.id) is None


async def refused_for(
    store: StateStore, keys: Keys, given: Script, script: Script, *, but: tuple[str, ...] = ()
) -> list[str]:
    """The kinds of keys of which one is foreign when the script is refused, and changes nothing."""
    await given(store)
    kinds = {name.removeprefix("{0}:") for name in keys.held()} - {"shards", *but}
    whole, refused = keys.dumped(), []
    for kind in kinds:
        keys.become(whole)
        keys.spoil("{0}:" + kind)
        before = keys.held()
        try:
            await script(store)
        except DataLoss:
            refused.append(kind)
            assert keys.held() == before, kind
    keys.become(whole)
    return refused


async def test_what_was_forgotten_leaves_no_key(prefix: str, keys: Keys) -> None:
    async with connected(redis_server.shared().url(prefix)) as store:
        await given_session(store)
        # Given that everything was settled, struck and purged
        await store.delete(OWNER, KEY, {"later": record(CANCELLED)}, NOW)
        await store.due(OWNER)
        while (loaded := await store.load(KEY)).inbox:
            placed = min(loaded.inbox, key=lambda placed: placed.number.sequence)
            ended = commit(placed, None if placed.skip else record(), loaded.version)
            await store.commit(OWNER, replace(ended, attempt=placed.attempts))
        await store.strike(OWNER, KEY, [SENT.number])
        made = promise("x", "m9")
        await store.journal(OWNER, KEY, attempt(entry(1, "m9", stream="again")), {}, starts=False, promises=[made])
        await store.settle_promise(KEY, settlement(made))
        await store.commit(OWNER, commit(entry(1, "m9", stream="again"), record(DEAD)))
        for dead in ("m9", "m11"):
            await store.purge(KEY, dead)
        # and what stood on the schedule
        far = entry(1, "m7", stream="far")
        await store.put(OWNER, KEY, replace(far, due=time.time() + 3600), envelope(far))
        await store.commit(OWNER, commit(far, record(CANCELLED)))
        # and that a copy is on its way of what was cancelled since
        await store.commit(OWNER, commit(entry(2, "m8", stream="again"), record(DEAD)))
        await store.redrive(KEY, "m8", number(1, "redriven"))
        await store.commit(OWNER, commit(entry(3, "m8", stream="again"), record(CANCELLED)))

        await store.forget(time.time() + RECORD_KEPT + RETENTION)

    assert set(keys.held()) == {"shards", "{0}:fence", "{0}:backlog"}
