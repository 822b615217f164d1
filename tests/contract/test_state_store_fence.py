"""What every state store must refuse, and what may be repeated: the fence, and each script a second time."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from support.state_stores import (
    CANCELLED,
    DEAD,
    KEY,
    MARK,
    NOW,
    OWNER,
    STRANGE,
    attempt,
    commit,
    entry,
    given_session,
    number,
    outgoing,
    record,
    seen,
)

from troupe.dataplane.state.errors import Fenced, VersionConflict
from troupe.dataplane.state.port import Claimed, StateStore
from troupe.dataplane.state.session import Owner, begun

# Every script of an owner, on a session of which message 1 is DONE and sent one, 2 has begun, 3 waits, and 4 runs
# under another's mark.
Script = Callable[[StateStore, Owner], Awaitable[Any]]
SCRIPTS: dict[str, Script] = {
    "claim": lambda store, owner: store.claim(owner),
    "put": lambda store, owner: store.put(owner, KEY, entry(5), b"new"),
    "put a running message": lambda store, owner: store.put(owner, KEY, replace(entry(5), running=MARK), b"new"),
    "put a copy": lambda store, owner: store.put(owner, KEY, entry(1, "m3", stream="other"), b"new"),
    "mark what waits": lambda store, owner: store.put(
        owner, KEY, replace(entry(2), running=owner.mark, attempts=1), b"new"
    ),
    "put a redriven message": lambda store, owner: store.put(owner, KEY, replace(entry(5), redriven=True), b"new"),
    "begin": lambda store, owner: store.begin(owner, KEY, entry(3)),
    "journal": lambda store, owner: store.journal(owner, KEY, attempt(entry(2)), {"b": b"2"}, starts=True),
    "retry": lambda store, owner: store.retry(owner, KEY, replace(begun(entry(2)), starts=0, failures=1), b"again"),
    "retry of what never waited": lambda store, owner: store.retry(
        owner, KEY, replace(entry(1, "mx", stream="other"), attempts=1, failures=1), b"again"
    ),
    "commit DONE": lambda store, owner: store.commit(owner, commit(entry(2), record(), version=1)),
    "commit DEAD": lambda store, owner: store.commit(owner, commit(entry(2), record(DEAD))),
    "commit CANCELLED": lambda store, owner: store.commit(owner, commit(entry(2), record(CANCELLED))),
    "commit of a number alone": lambda store, owner: store.commit(owner, commit(entry(1, "m1", stream="other"), None)),
    "commit DONE with messages": lambda store, owner: store.commit(
        owner, replace(commit(entry(2), record(), version=1), outbox=[outgoing(2), outgoing(3)])
    ),
    "take over": lambda store, owner: store.take_over(owner, KEY, number(4), STRANGE),
    "strike": lambda store, owner: store.strike(owner, KEY, [number(1, "to bob"), number(7, "to bob")]),
    "pass over": lambda store, owner: store.pass_over(owner, KEY, number(1, "silent"), 3, NOW),
    "delete": lambda store, owner: store.delete(owner, KEY, {"m2": record(CANCELLED), "m3": record(CANCELLED)}, NOW),
}


# --- the fence


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    "stranger", [replace(OWNER, epoch=4), replace(OWNER, instance="worker-2.1")], ids=["lower epoch", "other instance"]
)
async def test_what_the_owner_did_not_send_is_refused_and_changes_nothing(
    store: StateStore, script: str, stranger: Owner
) -> None:
    await given_session(store)
    before = await seen(store)

    with pytest.raises(Fenced) as refusal:
        await SCRIPTS[script](store, stranger)

    assert refusal.value.epoch == OWNER.epoch
    assert await seen(store) == before


@pytest.mark.parametrize("script", SCRIPTS)
async def test_a_higher_epoch_raises_the_fence_with_whatever_script_it_comes(store: StateStore, script: str) -> None:
    await given_session(store)

    await SCRIPTS[script](store, replace(OWNER, epoch=6, instance="worker-2.1"))

    with pytest.raises(Fenced) as refusal:
        await store.claim(OWNER)
    assert refusal.value.epoch == 6


async def test_a_refused_script_of_a_higher_epoch_changes_nothing_either(store: StateStore) -> None:
    await given_session(store)
    before = await seen(store)

    with pytest.raises(VersionConflict):
        await store.commit(replace(OWNER, epoch=6), commit(entry(2), record(), version=7))

    assert await seen(store) == before


async def test_the_first_script_on_a_shard_needs_no_claim(store: StateStore) -> None:
    await store.put(OWNER, KEY, entry(1), b"")

    with pytest.raises(Fenced):
        await store.claim(replace(OWNER, epoch=4))


async def test_each_shard_has_a_fence_of_its_own(store: StateStore) -> None:
    await store.claim(OWNER)

    assert await store.claim(Owner(shard=1, epoch=1, instance="worker-2.1")) == Claimed([], [])


async def test_a_claim_finds_the_sessions_that_have_something_in_the_inbox(store: StateStore) -> None:
    # Given one session with a message, one with nothing left, one of another shard
    idle, foreign = replace(KEY, session="idle"), replace(KEY, session="foreign")
    await given_session(store)
    await store.put(OWNER, idle, entry(1), b"")
    await store.commit(OWNER, commit(entry(1), record(), key=idle))
    await store.put(Owner(1, 1, "worker-1.1"), foreign, entry(1), b"")

    assert await store.claim(replace(OWNER, epoch=6)) == Claimed([KEY], [])


# --- repetition


@pytest.mark.parametrize("script", SCRIPTS)
async def test_repeating_a_script_changes_nothing_more(store: StateStore, script: str) -> None:
    await given_session(store)
    await SCRIPTS[script](store, OWNER)
    once = await seen(store)

    await SCRIPTS[script](store, OWNER)

    assert await seen(store) == once
