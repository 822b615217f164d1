"""Who may write to a RevisionStore: one leader, in the last term, and nobody else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.revision_stores import (
    COMPLETE,
    DURABLE,
    FIRST,
    PENDING,
    SUPERSEDED,
    URLS,
    A,
    B,
    following,
    grown,
    led,
    opening,
)

from troupe.chassis.errors import Aborted
from troupe.controlplane.placement import Placement
from troupe.controlplane.revisions import Head
from troupe.controlplane.stores.port import Deposed, KnownWorker, Leadership, RevisionStore


@pytest.fixture(params=URLS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RevisionStore]:
    async with opening(request.param, tmp_path) as opened:
        yield opened


async def test_each_leader_has_a_later_term(store: RevisionStore) -> None:
    assert await led(store, "first") == Leadership(1, "first", "first:1")
    assert await led(store, "second") == Leadership(2, "second", "second:1")
    assert await led(store, "second") == Leadership(3, "second", "second:1"), "also one that leads again"
    assert await store.leadership() == Leadership(3, "second", "second:1")
    assert await store.head() == Head(0, 3)


async def test_a_term_is_also_later_than_one_that_was_heard_of(store: RevisionStore) -> None:
    assert (await led(store, beyond=7)).term == 8
    assert (await led(store, beyond=3)).term == 9


async def test_who_saw_another_leadership_does_not_lead(store: RevisionStore) -> None:
    held = await led(store, "leader")

    for seen in (
        Leadership(0),
        replace(held, term=2),
        replace(held, holder="another"),
        replace(held, address="elsewhere"),
        replace(held, renewals=1),
    ):
        with pytest.raises(Aborted):
            await store.lead(seen, "candidate", "candidate:1")

    assert await store.leadership() == held


async def test_of_many_who_saw_the_same_one_leads(store: RevisionStore) -> None:
    seen = await led(store, "before")

    results = await asyncio.gather(
        *(store.lead(seen, f"candidate-{number}", "host:1") for number in range(8)), return_exceptions=True
    )

    (won,) = [result for result in results if isinstance(result, Leadership)]
    assert await store.leadership() == won
    assert won.term == 2
    assert all(isinstance(result, Aborted) for result in results if result is not won)


async def test_each_sign_of_life_is_one_that_others_see(store: RevisionStore) -> None:
    held = await led(store, "leader")

    first = await store.renew(held)
    second = await store.renew(first)

    assert await store.leadership() == second
    assert [held.renewals, first.renewals, second.renewals] == [0, 1, 2]
    with pytest.raises(Aborted):
        await store.lead(first, "candidate", "candidate:1")


async def test_who_does_not_lead_gives_no_sign_of_life(store: RevisionStore) -> None:
    held = await led(store, "leader")
    renewed = await store.renew(held)
    with pytest.raises(Aborted):
        await store.renew(held)
    assert await store.leadership() == renewed

    after = await led(store, "after")
    for stale in (held, renewed, replace(after, holder="leader")):
        with pytest.raises(Aborted):
            await store.renew(stale)
    assert await store.leadership() == after


async def test_who_resigned_does_not_lead_and_the_next_term_is_another(store: RevisionStore) -> None:
    held = await led(store, "leader")
    await store.renew(held)

    await store.resign(held)

    assert await store.leadership() == Leadership(1)
    with pytest.raises(Aborted):
        await store.renew(held)
    assert (await led(store, "next")).term == 2


async def test_who_does_not_lead_resigns_from_nothing(store: RevisionStore) -> None:
    held = await led(store, "leader")
    after = await led(store, "leader")
    other = await led(store, "other")
    for stale in (held, after, replace(other, holder="leader"), replace(other, term=2)):
        await store.resign(stale)
    assert await store.leadership() == other


WRITES: dict[str, Callable[[RevisionStore, Head, int], Awaitable[object]]] = {
    "commit": lambda store, head, term: store.commit(following(head), 1.0, replace(head, term=term), [PENDING]),
    "commit and end": lambda store, head, term: store.commit(
        following(head), 1.0, replace(head, term=term), [PENDING, SUPERSEDED]
    ),
    "save rollouts": lambda store, head, term: store.save_rollouts([(head.revision_id, COMPLETE)], term),
    "save no rollouts": lambda store, _, term: store.save_rollouts([], term),
    "save placement": lambda store, _, term: store.save_placement(Placement(2, FIRST.shards), term),
    "remember": lambda store, _, term: store.remember_worker(KnownWorker(B), term),
    "remember again": lambda store, _, term: store.remember_worker(KnownWorker(replace(A, instance_id="a-2")), term),
    "forget": lambda store, _, term: store.forget_worker("a", term),
    "forget nobody": lambda store, _, term: store.forget_worker("nobody", term),
}
"""Every write but `lead`, `renew` and `resign`, with what it is given."""


@pytest.mark.parametrize("write", WRITES)
async def test_no_write_of_another_term_changes_anything(store: RevisionStore, write: str) -> None:
    # Given a store that has something of everything, in its second term
    await led(store, "before")
    await led(store, "leader")
    await grown(store, PENDING)
    await store.save_placement(FIRST, 2)
    await store.remember_worker(KnownWorker(A), 2)
    head, stored = await store.head(), await everything(store)

    # When one writes that led before, or that will lead later, or one that never did, then nothing is stored
    for term in (1, 3, 0):
        with pytest.raises(Deposed):
            await WRITES[write](store, head, term)
        assert await everything(store) == stored

    # And the leader's own write is
    await WRITES[write](store, head, 2)

    # And after resigning, the term is still the only one in which anything is written
    await store.resign(await store.leadership())
    with pytest.raises(Deposed):
        await WRITES[write](store, await store.head(), 1)


@pytest.mark.parametrize("backend", DURABLE)
async def test_of_two_that_race_for_leading_through_connections_of_their_own_one_wins_each_time(
    backend: str, tmp_path: Path
) -> None:
    async with opening(backend, tmp_path) as one, opening(backend, tmp_path) as another:
        for term in range(1, 31):
            seen = await one.leadership()
            results = await asyncio.gather(
                one.lead(seen, "one", "host:1"), another.lead(seen, "another", "host:2"), return_exceptions=True
            )
            (won,) = [result for result in results if isinstance(result, Leadership)]
            assert won == await one.leadership() == await another.leadership()
            assert won.term == term


@pytest.mark.parametrize("backend", DURABLE)
async def test_of_two_writers_only_the_one_of_the_last_term_writes(backend: str, tmp_path: Path) -> None:
    """The old leader writes as fast as it can while another takes over: nothing of it comes after."""
    async with opening(backend, tmp_path) as old, opening(backend, tmp_path) as new:
        held = await led(old, "old")

        async def write_on() -> int:
            written = 0
            while True:
                try:
                    await old.save_placement(Placement(written + 1, FIRST.shards), held.term)
                except Deposed:
                    return written
                written += 1

        writing = asyncio.create_task(write_on())
        while (await new.placement()).version < 5:
            continue
        while True:
            try:
                after = await new.lead(await new.leadership(), "new", "host:2")
                break
            except Aborted:
                continue
        version = (await new.placement()).version
        await new.save_placement(Placement(version + 1, (None,) * 4), after.term)

        assert await writing == version
        assert await new.placement() == Placement(version + 1, (None,) * 4)


async def everything(store: RevisionStore) -> object:
    return (
        await store.leadership(),
        await store.head(),
        await store.revisions(1_000),
        await store.placement(),
        await store.workers(),
    )
