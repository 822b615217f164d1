"""What every state store must do with promises: settled once, seen by their turn, gone with their message."""

from dataclasses import replace

import pytest
from support.state_stores import (
    CANCELLED,
    DEAD,
    DONE,
    EXPIRED,
    KEY,
    NOW,
    OWNER,
    REJECTED,
    SKIPPED,
    StoreTime,
    attempt,
    cancel,
    commit,
    entry,
    envelope,
    inbox,
    place,
    promise,
    record,
    seen,
    settlement,
)

from troupe.dataplane.state.control import Promise
from troupe.dataplane.state.errors import CancelRecorded, VersionConflict
from troupe.dataplane.state.port import Due, StateStore
from troupe.dataplane.state.session import RECORD_KEPT
from troupe.v1 import promise_pb2
from troupe.v1.promise_pb2 import SETTLEMENT_ANSWER_APPLIED as APPLIED
from troupe.v1.promise_pb2 import SETTLEMENT_ANSWER_DUPLICATE as DUPLICATE
from troupe.v1.promise_pb2 import SETTLEMENT_ANSWER_EXPIRED as LATE
from troupe.v1.promise_pb2 import SETTLEMENT_ANSWER_WITHDRAWN as GONE
from troupe.v1.turn_pb2 import Fate

OPEN, RESOLVED = promise_pb2.PROMISE_STATE_OPEN, promise_pb2.PROMISE_STATE_RESOLVED
REFUSED, LAPSED, WITHDRAWN = (
    promise_pb2.PROMISE_STATE_REJECTED,
    promise_pb2.PROMISE_STATE_EXPIRED,
    promise_pb2.PROMISE_STATE_WITHDRAWN,
)
APPROVAL = promise()


async def make(store: StateStore, *made: Promise, message_id: str = "m1") -> None:
    await store.journal(OWNER, KEY, attempt(entry(1, message_id)), {"ask": b""}, starts=False, promises=made)


async def state(store: StateStore, made: Promise = APPROVAL) -> promise_pb2.PromiseState.ValueType:
    found = await store.promise(KEY, made.id)
    assert found is not None
    return found.state


# --- made


async def test_a_promise_is_open_once_its_step_is_kept(store: StateStore) -> None:
    await make(store, APPROVAL, promise("second", expires=4e9))

    assert await store.promise(KEY, APPROVAL.id) == APPROVAL
    assert await store.promise(KEY, "m1/second") == promise("second", expires=4e9)
    assert await store.promise(KEY, "m1/third") is None
    assert await store.promise(replace(KEY, session="bob"), APPROVAL.id) is None


async def test_made_again_it_stays_and_has_one_token_more(store: StateStore) -> None:
    await make(store, APPROVAL)
    await store.settle_promise(KEY, settlement(APPROVAL))
    before = await store.promise(KEY, APPROVAL.id)
    assert before is not None

    for _ in range(2):
        await make(store, replace(APPROVAL, created=NOW + 9, approvers=(), tokens=(b"fresh",)))

    assert await store.promise(KEY, APPROVAL.id) == replace(before, tokens=(*APPROVAL.tokens, b"fresh"))


@pytest.mark.parametrize("at_first", [1, 9])
async def test_its_newest_eight_tokens_are_kept(store: StateStore, at_first: int) -> None:
    tokens = tuple(b"%d" % token for token in range(10))
    await make(store, replace(APPROVAL, tokens=tokens[:at_first]))
    assert await store.promise(KEY, APPROVAL.id) == replace(APPROVAL, tokens=tokens[:at_first][-8:])
    for token in tokens[at_first:]:
        await make(store, replace(APPROVAL, tokens=(token,)))

    made = await store.promise(KEY, APPROVAL.id)
    assert made is not None
    assert made.tokens == tokens[2:]


@pytest.mark.parametrize("why", ["cancelled", "ended", "settled"])
async def test_a_turn_that_may_start_nothing_makes_no_promise(store: StateStore, why: str) -> None:
    await place(store, entry(1))
    await store.begin(OWNER, KEY, entry(1))
    if why == "cancelled":
        await store.control(KEY, cancel())
    elif why == "ended":
        await store.retry(OWNER, KEY, replace(entry(1), attempts=1, failures=1), b"")
    else:
        await store.commit(OWNER, commit(entry(1), record()))

    with pytest.raises(CancelRecorded if why == "cancelled" else VersionConflict):
        await store.journal(OWNER, KEY, attempt(entry(1)), {"ask": b""}, starts=True, promises=[APPROVAL])
    if why != "cancelled":
        await store.journal(OWNER, KEY, attempt(entry(1)), {"ask": b""}, starts=False, promises=[APPROVAL])

    assert await store.promise(KEY, APPROVAL.id) is None


async def test_a_turn_begins_with_the_promises_of_its_message(store: StateStore) -> None:
    await make(store, APPROVAL)
    await make(store, promise(message_id="m2"), message_id="m2")
    await place(store, entry(1))

    assert (await store.begin(OWNER, KEY, entry(1))).promises == [APPROVAL]


# --- settled


async def test_the_first_settlement_wins(store: StateStore, store_time: StoreTime) -> None:
    await make(store, APPROVAL)
    before = store_time.now()

    assert await store.settle_promise(KEY, settlement(APPROVAL)) == APPLIED

    made = await store.promise(KEY, APPROVAL.id)
    assert made is not None
    assert before - 1 <= made.settled <= store_time.now() + 1
    assert made == replace(
        APPROVAL, state=RESOLVED, value=b"yes", settlement_id="s1", settled_by="boss", settled=made.settled
    )
    assert await store.settle_promise(KEY, settlement(APPROVAL, "s2", b"no")) == DUPLICATE
    assert await store.settle_promise(KEY, settlement(APPROVAL)) == APPLIED
    assert await store.promise(KEY, APPROVAL.id) == made


async def test_a_rejection_is_a_settlement(store: StateStore) -> None:
    await make(store, APPROVAL)
    refusal = replace(settlement(APPROVAL, value=b"too dear"), state=REFUSED, by="")

    assert await store.settle_promise(KEY, refusal) == APPLIED

    made = await store.promise(KEY, APPROVAL.id)
    assert made is not None
    assert (made.state, made.value, made.settled_by) == (REFUSED, b"too dear", "")
    assert await store.settle_promise(KEY, settlement(APPROVAL, "s2")) == DUPLICATE


async def test_what_was_never_promised_cannot_be_settled(store: StateStore) -> None:
    with pytest.raises(KeyError):
        await store.settle_promise(KEY, settlement(APPROVAL))
    await make(store, APPROVAL)
    with pytest.raises(KeyError):
        await store.settle_promise(KEY, settlement(promise("second")))
    with pytest.raises(KeyError):
        await store.settle_promise(replace(KEY, session="bob"), settlement(APPROVAL))


async def test_a_settlement_wakes_all_that_wait_for_it(store: StateStore) -> None:
    await make(store, APPROVAL, promise("second"))
    first = replace(entry(1), attempts=1, awaits=(APPROVAL.id,))
    other = replace(entry(1, "m2", stream="other"), attempts=1, awaits=("m1/second", APPROVAL.id))
    third = replace(entry(1, "m3", stream="third"), attempts=1, awaits=("m1/second",))
    for waits in (third, other, first):
        assert await store.suspend(OWNER, KEY, waits, envelope(waits))

    await store.settle_promise(KEY, settlement(APPROVAL))

    assert await inbox(store) == [replace(first, awaits=()), replace(other, awaits=()), third]


async def test_a_promise_of_an_attempt_before_ends_no_wait_of_the_next(store: StateStore) -> None:
    await place(store, entry(2))
    await make(store, promise("first"), promise("second"))
    waits = replace(entry(1), attempts=1, awaits=("m1/first", "m1/second"))
    await store.suspend(OWNER, KEY, waits, b"")
    await store.settle_promise(KEY, settlement(promise("second")))
    await store.begin(OWNER, KEY, replace(waits, awaits=()))
    await store.journal(OWNER, KEY, attempt(entry(1), 1), {}, starts=False, promises=[promise("third")])
    await store.suspend(OWNER, KEY, replace(waits, attempts=2, awaits=("m1/third",)), b"")

    await store.settle_promise(KEY, settlement(promise("first")))

    assert [waiting.awaits for waiting in await inbox(store)] == [("m1/third",), ()]


# --- expired


async def test_a_settlement_after_its_time_comes_too_late(store: StateStore, store_time: StoreTime) -> None:
    fleeting = promise(expires=store_time.now() + 0.2)
    await make(store, fleeting)
    await store.suspend(OWNER, KEY, replace(entry(1), attempts=1, awaits=(fleeting.id,)), b"")
    await store_time.pass_(0.25)

    assert await store.settle_promise(KEY, settlement(fleeting)) == LATE

    assert await store.promise(KEY, fleeting.id) == replace(fleeting, state=LAPSED, settled=fleeting.expires)
    assert (await inbox(store))[0].awaits == ()
    assert await store.settle_promise(KEY, settlement(fleeting)) == LATE
    assert (await store.claim(OWNER)).due == [KEY]


async def test_a_promise_expires_by_itself(store: StateStore, store_time: StoreTime) -> None:
    fleeting = promise(expires=store_time.now() + 0.2)
    await make(store, fleeting, promise("second", expires=store_time.now() + 3600))
    await store.suspend(OWNER, KEY, replace(entry(1), attempts=1, awaits=(fleeting.id, "m1/second")), b"")

    early = await store.due(OWNER)
    assert early.sessions == []
    assert early.following is not None
    assert 0 < early.following < 0.21
    await store_time.pass_(0.25)
    due = await store.due(OWNER)

    assert due.sessions == [KEY]
    assert due.following is not None
    assert 3590 < due.following < 3600
    assert (await state(store, fleeting), await state(store, promise("second"))) == (LAPSED, OPEN)
    assert (await inbox(store))[0].awaits == ()
    assert (await store.claim(OWNER)).due == [KEY]
    assert (await store.due(OWNER)).sessions == []


async def test_what_was_settled_in_time_does_not_expire(store: StateStore, store_time: StoreTime) -> None:
    fleeting = promise(expires=store_time.now() + 0.2)
    await make(store, fleeting)
    await store.settle_promise(KEY, settlement(fleeting))
    await store_time.pass_(0.25)

    assert await store.due(OWNER) == Due([], None)
    assert await state(store, fleeting) == RESOLVED
    assert await store.settle_promise(KEY, settlement(fleeting)) == APPLIED


# --- withdrawn


@pytest.mark.parametrize("fate", [DONE, CANCELLED, SKIPPED, REJECTED], ids=Fate.Name)
async def test_a_message_settled_for_good_withdraws_its_promises(store: StateStore, fate: Fate.ValueType) -> None:
    await make(store, APPROVAL, promise("second"))
    await make(store, promise(message_id="m2"), message_id="m2")
    await store.settle_promise(KEY, settlement(promise("second")))
    waits = replace(entry(1, "m2", stream="other"), attempts=1, awaits=(APPROVAL.id,))
    await store.suspend(OWNER, KEY, waits, b"")

    await store.commit(OWNER, commit(entry(1), record(fate)))

    assert await store.promise(KEY, APPROVAL.id) == replace(APPROVAL, state=WITHDRAWN, settled=NOW)
    assert await state(store, promise("second")) == RESOLVED
    assert await state(store, promise(message_id="m2")) == OPEN
    assert await store.settle_promise(KEY, settlement(APPROVAL)) == GONE
    # and what waits for it need wait no more
    assert await inbox(store) == [replace(waits, awaits=())]


@pytest.mark.parametrize("fate", [DEAD, EXPIRED], ids=Fate.Name)
async def test_that_of_a_dead_letter_stays_open_for_its_redrive(store: StateStore, fate: Fate.ValueType) -> None:
    await make(store, APPROVAL)
    await store.commit(OWNER, commit(entry(1), record(fate)))

    assert await store.settle_promise(KEY, settlement(APPROVAL)) == APPLIED

    again = replace(entry(1, "m1", stream="again"), redriven=True)
    await place(store, again)
    assert [made.value for made in (await store.begin(OWNER, KEY, again)).promises] == [b"yes"]


async def test_a_cancel_or_deletion_where_it_waits_withdraws_them_too(store: StateStore) -> None:
    await make(store, APPROVAL)
    await make(store, promise(message_id="m2"), message_id="m2")

    await store.delete(OWNER, KEY, {"m2": record(CANCELLED)}, NOW)

    assert [await state(store), await state(store, promise(message_id="m2"))] == [OPEN, WITHDRAWN]


# --- kept and listed


async def test_promises_are_kept_as_long_as_their_message_s_record(store: StateStore) -> None:
    await make(store, APPROVAL)
    await store.commit(OWNER, commit(entry(1), record()))

    await store.forget(NOW + RECORD_KEPT)
    assert await state(store) == WITHDRAWN
    await store.forget(NOW + RECORD_KEPT + 1)
    assert await store.promise(KEY, APPROVAL.id) is None


async def test_what_is_forgotten_beside_it_leaves_a_promise_to_its_message(store: StateStore) -> None:
    await make(store, APPROVAL)
    await store.forget(NOW)

    await store.commit(OWNER, commit(entry(1), record()))

    assert await state(store) == WITHDRAWN


async def test_what_went_with_its_record_does_not_expire(store: StateStore, store_time: StoreTime) -> None:
    await make(store, promise(expires=store_time.now() + 0.2))
    await store.commit(OWNER, commit(entry(1), record(DEAD)))
    await store.purge(KEY, "m1")
    await store.forget(NOW + RECORD_KEPT + 1)

    await store_time.pass_(0.25)

    assert await store.due(OWNER) == Due([], None)


async def test_open_promises_are_listed_in_pages(store: StateStore) -> None:
    for name in ("b", "a"):
        key = replace(KEY, session=name)
        for message in ("m2", "m1"):
            both = [promise("y", message), promise("x", message)]
            await store.journal(OWNER, key, attempt(entry(1, message)), {}, starts=False, promises=both)
    await store.settle_promise(replace(KEY, session="a"), settlement(promise("x", "m1")))
    await store.journal(
        OWNER, replace(KEY, agent="other"), attempt(entry(1)), {}, starts=False, promises=[promise(expires=4e9)]
    )
    clerks = KEY.path.removesuffix("ada")

    page, after = [], None
    while found := await store.promises(clerks, after, 3):
        page += [(key.session, made.id) for _, key, made in found]
        shard, key, made = found[-1]
        after = (shard, key.path, made.id)

    every = [(name, f"{message}/{made}") for name in "ab" for message in ("m1", "m2") for made in "xy"]
    assert page == [each for each in every if each != ("a", "m1/x")]
    listed = [(key.session, made.id) for _, key, made in await store.promises(clerks, None, 100, settled=True)]
    assert listed == every
    assert len(await store.promises("", None, 100)) == 8


async def test_an_unknown_session_s_promises_are_none(store: StateStore) -> None:
    assert await store.promises("", None, 10, settled=True) == []
    assert (await seen(store)).promises == []
