"""What every state store must do with whole sessions: load, lists, deletion, forgetting, and being opened again."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.state_stores import (
    CANCELLED,
    DEAD,
    DONE,
    DURABLE,
    EXPIRED,
    KEY,
    NOW,
    OWNER,
    SHARDS,
    STORES,
    Seen,
    attempt,
    cancel,
    commit,
    entry,
    envelope,
    number,
    opening,
    record,
    seen,
)

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Position
from troupe.chassis.errors import FailedPrecondition, InvalidArgument
from troupe.dataplane.state.connect import connected
from troupe.dataplane.state.port import Placed, StateStore
from troupe.dataplane.state.session import RECENT, Loaded, Owner, Verbs, begun
from troupe.v1.agent_pb2 import VERB_ANSWER_APPLIED, VERB_ANSWER_PENDING
from troupe.v1.turn_pb2 import Fate

DAY = 24 * 3600.0
MONTH = 30 * DAY


@pytest.fixture(params=STORES)
async def wide(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StateStore]:
    """Of a fleet with shards enough for lists."""
    async with opening(request.param, tmp_path, shards=8) as opened:
        yield opened


async def given_everything(store: StateStore) -> None:
    """A session with something of every kind: m1 is DONE, m2 DEAD with its journal, m3 has begun, journaled and failed,
    m4 was cancelled where it waited, m5 waits, m9 was cancelled before it came; other/1 was passed over."""
    await store.claim(OWNER)
    await store.commit(OWNER, commit(entry(1), record()))
    await store.journal(OWNER, KEY, attempt(entry(2)), {"a": b"1"}, starts=True)
    await store.commit(OWNER, commit(entry(2), record(DEAD)))
    for sequence in (3, 4, 5):
        await store.put(OWNER, KEY, entry(sequence), envelope(entry(sequence)))
    await store.begin(OWNER, KEY, entry(3))
    await store.journal(OWNER, KEY, attempt(entry(3)), {"a": b"1", "b": b"\x00\xff"}, starts=True)
    await store.retry(OWNER, KEY, replace(begun(entry(3)), starts=0, failures=1, not_before=NOW + 0.125), b"")
    await store.control(KEY, cancel("m4", "v4"))
    await store.control(KEY, cancel("m9", "v9"))
    await store.pass_over(OWNER, KEY, number(1, "other"), 1, NOW)


# --- load


async def test_an_unknown_session_is_empty(store: StateStore) -> None:
    await store.commit(OWNER, commit(entry(1), record()))
    stranger = replace(KEY, tenant="acme")

    assert await store.load(stranger) == Loaded(history=[], inbox=[], recent=[], outbox=[])
    assert (await store.summary(stranger), await store.record(stranger, "m1")) == (None, None)


async def test_a_session_is_loaded_whole(store: StateStore) -> None:
    await given_everything(store)

    loaded = (await seen(store)).loaded

    assert loaded == Loaded(
        version=1,
        state=b"state ada.1",
        history=[b"delta ada.1"],
        positions={"gateway": Position(2), "other": Position(1, frozenset({1}))},
        inbox=[
            replace(entry(3), attempts=1, failures=1, not_before=NOW + 0.125),
            replace(entry(4), skip=True),
            entry(5),
        ],
        recent=["m1", "m2", "m4"],
        verbs=Verbs({"m9"}),
        journaled={"m2", "m3"},
        outbox=[],
    )


async def test_a_long_history_keeps_its_order(store: StateStore) -> None:
    for version in range(12):
        await store.commit(OWNER, commit(entry(version + 1), record(), version))

    assert (await store.load(KEY)).history == [f"delta ada.{version}".encode() for version in range(1, 13)]


@pytest.mark.parametrize(("settled", "returned"), [(RECENT - 1, RECENT - 1), (RECENT + 1, RECENT)])
async def test_few_records_are_all_returned(store: StateStore, settled: int, returned: int) -> None:
    await store.delete(OWNER, KEY, {f"m{n}": record(CANCELLED) for n in range(settled)}, NOW)

    recent = (await store.load(KEY)).recent

    assert len(recent) == len(set(recent)) == returned


@pytest.mark.parametrize("name", ["nul \x00 within", "ünï'\"%_", "x" * 128, "/", "m1 "])
async def test_ids_are_kept_as_they_are(store: StateStore, name: str) -> None:
    odd = replace(entry(1, name), number=number(1, name))
    await store.put(OWNER, KEY, odd, b"\x00")
    await store.journal(OWNER, KEY, attempt(odd), {name: b""}, starts=False)
    await store.control(KEY, cancel(name + "2", name))

    assert (await store.begin(OWNER, KEY, odd)).journal == {name: b""}
    await store.commit(OWNER, commit(odd, record()))

    loaded = await store.load(KEY)
    assert (loaded.positions, loaded.recent, loaded.verbs) == ({name: Position(1)}, [name], Verbs({name + "2"}))


# --- the fleet's shards


async def test_a_store_keeps_the_number_of_shards_that_it_was_made_for(store: StateStore) -> None:
    await store.declare(SHARDS)

    with pytest.raises(FailedPrecondition, match="made for 1 shards, not 2"):
        await store.declare(2)


# --- opened again


@pytest.mark.parametrize("backend", DURABLE)
async def test_a_store_that_is_opened_again_has_everything(tmp_path: Path, backend: str) -> None:
    async with opening(backend, tmp_path) as store:
        await given_everything(store)
        before = await everything(store)

    async with opening(backend, tmp_path) as store:
        assert await everything(store) == before
        assert (await store.claim(OWNER)).due == [KEY]
        assert await store.control(KEY, cancel("m4", "v4")) == VERB_ANSWER_APPLIED
        assert await store.control(KEY, cancel("m9", "v9")) == VERB_ANSWER_PENDING
        assert await store.put(OWNER, KEY, entry(6, "m9"), b"") is Placed.SKIPPED


@pytest.mark.parametrize("backend", DURABLE)
async def test_every_store_is_the_same_as_memory(tmp_path: Path, backend: str) -> None:
    async with opening("memory", tmp_path) as memory, opening(backend, tmp_path) as durable:
        for store in (memory, durable):
            await given_everything(store)

        assert await everything(memory) == await everything(durable)


async def everything(store: StateStore) -> Seen:
    return await seen(store, ids=("m1", "m2", "m3", "m4", "m5", "m9", "never"))


# --- lists


def session(name: str, agent: str = "clerk") -> SessionKey:
    return SessionKey("default", "default", agent, name)


async def given_sessions(store: StateStore, *placed: tuple[int, SessionKey]) -> None:
    for shard, key in placed:
        await store.commit(Owner(shard, 1, "worker-1.1"), commit(entry(1), record(), key=key))


async def test_lists_go_by_shard_and_path_a_page_at_a_time(wide: StateStore) -> None:
    placed = [(0, session("b")), (0, session("é")), (2, session("a")), (2, session("c")), (7, session("b2"))]
    await given_sessions(wide, *reversed(placed))
    pages, after = [], None

    while page := await wide.summaries("default/", after, 2):
        pages.append([(shard, summary.key) for shard, summary in page])
        after = (page[-1][0], page[-1][1].key.path)

    assert pages == [placed[:2], placed[2:4], placed[4:]]


async def test_a_page_may_begin_anywhere(wide: StateStore) -> None:
    placed = [(0, session("b")), (2, session("a")), (2, session("c"))]
    await given_sessions(wide, *placed)

    async def rest(shard: int, path: str) -> list[tuple[int, SessionKey]]:
        return [(shard, summary.key) for shard, summary in await wide.summaries("", (shard, path), 10)]

    assert await rest(0, "") == placed
    assert await rest(0, "zzz") == placed[1:]
    assert await rest(1, "zzz") == placed[1:]
    assert await rest(2, session("b").path) == placed[2:]
    assert await rest(2, session("c").path) == []
    assert await wide.summaries("", None, 0) == []


async def test_a_prefix_picks_an_agent_and_nothing_like_it(wide: StateStore) -> None:
    await given_sessions(
        wide, (0, session("a")), (0, session("a", "clerk-2")), (1, session("z")), (1, session("a", "clerj"))
    )

    found = await wide.summaries("default/default/clerk/", None, 10)

    assert [summary.key for _, summary in found] == [session("a"), session("z")]
    assert [summary.key for _, summary in await wide.summaries(session("z").path, None, 10)] == [session("z")]
    assert await wide.summaries("default/default/c%", None, 10) == []


async def test_a_list_has_what_the_session_itself_says(store: StateStore) -> None:
    await given_everything(store)

    assert await store.summaries("", None, 10) == [(OWNER.shard, await store.summary(KEY))]
    summary = await store.summary(KEY)
    assert summary is not None
    assert summary.waiting == 2


# --- deletion


async def test_a_deleted_session_has_no_state_and_keeps_what_redeliveries_need(store: StateStore) -> None:
    await given_everything(store)

    await store.delete(OWNER, KEY, {"m3": record(CANCELLED), "m5": record(CANCELLED)}, NOW)

    loaded = (await seen(store)).loaded
    assert (loaded.version, loaded.state, loaded.history, await store.summary(KEY)) == (0, b"", [], None)
    assert [waiting.skip for waiting in loaded.inbox] == [True, True, True]
    assert loaded.positions == {"gateway": Position(2), "other": Position(1, frozenset({1}))}
    assert loaded.recent == ["m1", "m2", "m3", "m4", "m5"]
    assert await store.record(KEY, "m3") == record(CANCELLED)
    assert await store.summaries("", None, 10) == []


async def test_a_deleted_session_begins_anew(store: StateStore) -> None:
    await store.commit(OWNER, commit(entry(1), record()))
    await store.delete(OWNER, KEY, {}, NOW)

    fresh = replace(commit(entry(2), record(), 0, now=NOW + 60), usage=None)
    assert await store.commit(OWNER, fresh) == 1

    loaded, summary = await store.load(KEY), await store.summary(KEY)
    assert (loaded.version, loaded.history) == (1, [b"delta ada.1"])
    assert summary is not None
    assert (summary.turns, summary.usage, summary.created) == (1, b"", NOW + 60)


async def test_a_deletion_keeps_what_other_messages_have_done(store: StateStore) -> None:
    """A message that comes again, or is redriven, must not do it again."""
    await store.journal(OWNER, KEY, attempt(entry(9, "named")), {"a": b"1"}, starts=True)
    await store.journal(OWNER, KEY, attempt(entry(9, "comes again")), {"a": b"1"}, starts=True)
    await store.journal(OWNER, KEY, attempt(entry(9, "dead")), {"a": b"1"}, starts=True)
    await store.commit(OWNER, commit(entry(1, "dead"), record(DEAD)))

    await store.delete(OWNER, KEY, {"named": record(CANCELLED)}, NOW)

    for sequence, (name, journal) in enumerate({"named": {}, "comes again": {"a": b"1"}, "dead": {"a": b"1"}}.items()):
        placed = entry(sequence + 1, name, stream="again")
        await store.put(OWNER, KEY, placed, b"")
        assert (await store.begin(OWNER, KEY, placed)).journal == journal


@pytest.mark.parametrize("fate", [DONE, DEAD, EXPIRED])
async def test_a_deletion_does_not_change_how_a_message_ended(store: StateStore, fate: Fate.ValueType) -> None:
    """It was about to end while the deletion was on its way."""
    await store.commit(OWNER, commit(entry(1), record(fate)))

    await store.delete(OWNER, KEY, {"m1": record(CANCELLED)}, NOW)

    assert await store.record(KEY, "m1") == record(fate)


@pytest.mark.parametrize("due", [0.0, 2 * NOW], ids=["now", "later"])
async def test_a_deletion_settles_a_dead_letter_that_waits_again(store: StateStore, due: float) -> None:
    await store.commit(OWNER, commit(entry(1), record(DEAD)))
    await store.redrive(KEY, "m1", entry(2).number)
    await store.put(OWNER, KEY, replace(entry(2, "m1"), redriven=True, due=due), b"")

    await store.delete(OWNER, KEY, {"m1": record(CANCELLED)}, NOW)

    assert await store.record(KEY, "m1") == record(CANCELLED)


# --- by URL


async def test_a_url_names_the_store(tmp_path: Path) -> None:
    async with connected(f"sqlite:///{tmp_path}/deep/state.db") as store:
        await store.claim(OWNER)
    assert (tmp_path / "deep" / "state.db").exists()
    async with connected("memory://") as store:
        await store.claim(OWNER)


@pytest.mark.parametrize("url", ["", "memory", "sqlite://state.db", "sqlite:///", "sqlite:///:memory:", "file:///x"])
async def test_a_url_that_names_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument, match="the URL must be"):
        async with connected(url):
            pass
