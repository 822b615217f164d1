"""What every state store must do with the history of a session: deltas, snapshots, pages, retention."""

from dataclasses import replace

import pytest
from support.state_stores import DEAD, KEY, NOW, OWNER, commit, entry, record

from troupe.dataplane.state.port import StateStore
from troupe.dataplane.state.session import RETENTION

MINUTE = 60.0


def delta(version: int) -> bytes:
    return f"delta ada.{version}".encode()


async def turns(store: StateStore, *versions: int, snapshots: tuple[int, ...] = ()) -> None:
    """Turns that lead to these versions, one after the other."""
    for version in versions:
        turn = commit(entry(version), record(), version - 1)
        await store.commit(OWNER, replace(turn, snapshot=b"up to %d" % version if version in snapshots else None))


async def loaded(store: StateStore) -> tuple[bytes, list[bytes]]:
    session = await store.load(KEY)
    return session.snapshot, list(session.history)


async def test_without_a_snapshot_all_deltas_are_loaded(store: StateStore) -> None:
    await turns(store, 1, 2, 3)

    assert await loaded(store) == (b"", [delta(1), delta(2), delta(3)])


async def test_a_snapshot_takes_the_place_of_what_was_before_it(store: StateStore) -> None:
    await turns(store, 1, 2, snapshots=(2,))
    assert await loaded(store) == (b"up to 2", [])

    await turns(store, 3, 4)
    assert await loaded(store) == (b"up to 2", [delta(3), delta(4)])

    await turns(store, 5, snapshots=(5,))
    assert await loaded(store) == (b"up to 5", [])


async def test_a_snapshot_covers_turns_that_left_no_delta(store: StateStore) -> None:
    await turns(store, 1)
    await store.commit(OWNER, replace(commit(entry(2), record(), 1), history=None))
    await turns(store, 3, 4, snapshots=(3,))

    assert await loaded(store) == (b"up to 3", [delta(4)])


async def test_an_empty_snapshot_is_one_too(store: StateStore) -> None:
    await turns(store, 1)
    await store.commit(OWNER, replace(commit(entry(2), record(), 1), snapshot=b""))

    assert await loaded(store) == (b"", [])


async def test_a_turn_that_is_not_done_makes_no_snapshot(store: StateStore) -> None:
    await turns(store, 1)
    await store.commit(OWNER, replace(commit(entry(2), record(DEAD), 1), snapshot=b"never"))

    assert await loaded(store) == (b"", [delta(1)])


async def test_all_deltas_are_paged_newest_first_whatever_the_snapshots(store: StateStore) -> None:
    await turns(store, 1, 2, 3, 4, 5, snapshots=(3,))
    await store.commit(OWNER, replace(commit(entry(6), record(), 5), history=None))
    await turns(store, 7)

    assert await store.history(KEY, None, 3) == [(7, delta(7)), (5, delta(5)), (4, delta(4))]
    assert await store.history(KEY, 4, 3) == [(3, delta(3)), (2, delta(2)), (1, delta(1))]
    assert await store.history(KEY, 1, 3) == []
    assert await store.history(replace(KEY, session="bob"), None, 3) == []


async def test_a_deletion_drops_history_and_snapshot(store: StateStore) -> None:
    await turns(store, 1, 2, 3, snapshots=(2,))

    await store.delete(OWNER, KEY, {}, NOW)

    assert await loaded(store) == (b"", [])
    assert await store.history(KEY, None, 10) == []
    # and what comes after does not begin behind the old snapshot
    await store.commit(OWNER, commit(entry(4), record(), 0))
    assert await loaded(store) == (b"", [delta(1)])


@pytest.mark.parametrize("retention", [MINUTE, RETENTION, 10 * RETENTION])
async def test_a_session_is_kept_as_long_as_its_agent_says(store: StateStore, retention: float) -> None:
    await store.commit(OWNER, replace(commit(entry(1), record()), retention=retention))

    await store.forget(NOW + retention)
    assert await store.history(KEY, None, 10) == [(1, delta(1))]

    await store.forget(NOW + retention + 1)
    assert await store.history(KEY, None, 10) == []
    assert await store.summary(KEY) is None


async def test_the_last_turn_says_how_long(store: StateStore) -> None:
    await store.commit(OWNER, replace(commit(entry(1), record()), retention=RETENTION))
    await store.commit(OWNER, replace(commit(entry(2), record(), 1, now=NOW + MINUTE), retention=MINUTE))

    await store.forget(NOW + 2 * MINUTE)
    assert await store.summary(KEY) is not None

    await store.forget(NOW + 2 * MINUTE + 1)
    assert await store.summary(KEY) is None
