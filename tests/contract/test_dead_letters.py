"""Dead letters over every broker: found, sent again, dropped."""

import asyncio
import random
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from support.brokers import Opened
from support.fake_clock import FakeClock
from support.letters import DIED, given_up, letter, undecodable
from support.mailboxes import Receiver, queue_of
from support.state_stores import STORES

from troupe.broker.addressing import DEFAULT, SessionKey, task_queue
from troupe.broker.order import Number
from troupe.broker.port import AGENTS, Broker, DeadLetter, HeldLetter
from troupe.chassis.clock import Clock, SystemClock
from troupe.chassis.errors import NotFound, TroupeError, Unavailable
from troupe.chassis.ids import uuid7
from troupe.chassis.wire import seconds
from troupe.dataplane.dead_letters.filter import Filter
from troupe.dataplane.dead_letters.letters import BATCH, SHOWN_BODY, DeadLetters
from troupe.dataplane.state.port import RECORD_KEPT, Owner, Record, StateStore, TurnCommit
from troupe.v1 import turn_pb2
from troupe.v1.dead_letter_pb2 import PurgeResponse, RedriveOutcome, RedriveResponse
from troupe.v1.envelope_pb2 import Blob, Content, Envelope
from troupe.v1.turn_pb2 import Fate

EVERY = Filter(DEFAULT)
OWNER = Owner(shard=0, epoch=1, instance="instance")
DEAD, DONE = turn_pb2.FATE_DEAD, turn_pb2.FATE_DONE


async def _at_once() -> None:
    pass


async def _whole(tenant: str, content: Content) -> Content:
    return Content(text=f"{tenant}: whole") if content.HasField("blob") else content


@dataclass
class Desk:
    """The dead letters of one fleet, its back ends beside them."""

    broker: Broker
    store: StateStore
    opened: Opened

    def letters(self, broker: Any = None, clock: Clock | None = None) -> DeadLetters:
        return DeadLetters(broker or self.broker, self.store, clock or FakeClock(), ready=_at_once, whole=_whole)

    async def keep(self, number: int, fate: Fate.ValueType | None = DEAD, **parts: Any) -> DeadLetter:
        """Give a message up, in a session of its own, and settle it as `fate`."""
        envelope = given_up(session=f"s{number}", text=f"text {number}")
        made = letter(envelope, **parts)
        if fate is not None:
            await self.settle(envelope, fate)
        await self.broker.dead_letter(made)
        return made

    async def settle(self, envelope: Envelope, fate: Fate.ValueType) -> None:
        """As a turn ends, under a number that has not been used."""
        key = SessionKey.of(envelope.target)
        version = (await self.store.load(key)).version
        record = Record(fate, Fate.Name(fate).encode(), b"digest")
        number = Number(uuid7(), 1)
        ended = TurnCommit(key=key, number=number, message_id=envelope.id, record=record, version=version, now=DIED)
        await self.store.commit(OWNER, ended)

    async def redrive(self, wanted: Filter = EVERY, **options: Any) -> list[RedriveResponse]:
        given = {"pool": AGENTS, "limit": 0, "rate": 0.0, "dry_run": False, **options}
        return [one async for one in self.letters().redrive(wanted=wanted, **given)]

    async def purge(self, wanted: Filter = EVERY, **options: Any) -> list[PurgeResponse]:
        given = {"pool": AGENTS, "limit": 0, "dry_run": False, **options}
        return [one async for one in self.letters().purge(wanted=wanted, **given)]

    async def left(self, pool: str = AGENTS) -> list[str]:
        """Ids of the letters that are there."""
        async with self.broker.dead_letters(pool) as held:
            return sorted([one.letter.id async for one in held])

    async def mailed(self, count: int, queue: str = "") -> list[Envelope]:
        """The first `count` messages in the mailbox, and that there are no more."""
        receiver = Receiver()
        queue = queue or queue_of(0)
        subscription = await self.broker.consume(queue, receiver, prefetch=10_000)
        await receiver.received(count)
        await self.opened.quiet()
        assert len(receiver.deliveries) == count
        await subscription.close()
        return [Envelope.FromString(one.body) for one in receiver.deliveries]


@pytest.fixture
async def desk(opened: Opened) -> AsyncIterator[Desk]:
    store = STORES["sqlite" if opened.backend.durable else "memory"]
    async with opened() as broker, store(opened.directory) as state:
        await broker.declare(1, ["encoders"])
        yield Desk(broker, state, opened)


def outcomes(results: list[RedriveResponse]) -> list[str]:
    return [RedriveOutcome.Name(one.outcome).removeprefix("REDRIVE_OUTCOME_") for one in results]


class TestList:
    async def test_pages_are_by_id_whatever_the_order_in_which_letters_come(self, desk: Desk) -> None:
        made = [letter(given_up(session=f"s{number}")) for number in range(25)]
        for one in random.Random(7).sample(made, len(made)):
            await desk.broker.dead_letter(one)
        pages, after = [], ""
        while True:
            page, after = await desk.letters().page(AGENTS, EVERY, 10, after)
            pages.append([one.letter_id for one in page])
            if not after:
                break
        ids = [one.id for one in made]
        assert pages == [ids[:10], ids[10:20], ids[20:]]

    async def test_a_last_page_that_is_full_has_no_token(self, desk: Desk) -> None:
        made = [await desk.keep(number) for number in range(4)]
        page, token = await desk.letters().page(AGENTS, EVERY, 2, made[1].id)
        assert ([one.letter_id for one in page], token) == ([made[2].id, made[3].id], "")

    async def test_a_filter_narrows_every_page(self, desk: Desk) -> None:
        made = [await desk.keep(number, reason="EVEN" if number % 2 == 0 else "ODD") for number in range(10)]
        chosen = Filter(DEFAULT, reasons=frozenset(["ODD"]))
        first, token = await desk.letters().page(AGENTS, chosen, 3, "")
        rest, end = await desk.letters().page(AGENTS, chosen, 3, token)
        assert [one.letter_id for one in [*first, *rest]] == [one.id for one in made[1::2]]
        assert not end

    async def test_no_letters_is_an_empty_page(self, desk: Desk) -> None:
        assert await desk.letters().page(AGENTS, EVERY, 10, "") == ([], "")

    async def test_a_pool_has_its_own_and_an_unknown_one_is_not_found(self, desk: Desk) -> None:
        await desk.keep(1)
        assert await desk.letters().page("encoders", EVERY, 10, "") == ([], "")
        with pytest.raises(NotFound):
            await desk.letters().page("unheard-of", EVERY, 10, "")

    async def test_a_page_does_not_hold_what_the_messages_said(self) -> None:
        """Given 3,000 letters of 64 KiB each, when they are listed, then memory holds a page of them and no bodies."""

        class Endless(_Through):
            @asynccontextmanager
            async def dead_letters(self, pool: str) -> AsyncIterator[AsyncIterator[Any]]:
                async def held() -> AsyncIterator[Any]:
                    for number in range(3_000):
                        yield _Shown(letter(given_up(text=f"{number:0>65536}")))

                yield held()

        broker: Any = Endless(None)
        store: Any = None
        letters = DeadLetters(broker, store, FakeClock(), ready=_at_once, whole=_whole)
        tracemalloc.start()
        try:
            page, _ = await letters.page(AGENTS, EVERY, 1_000, "")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(page) == 1_000
        assert peak < 20 * 65_536


class TestGet:
    async def test_it_says_what_the_message_said(self, desk: Desk) -> None:
        made = await desk.keep(1)
        got = await desk.letters().get(AGENTS, made.id, DEFAULT)
        assert (got.letter.letter_id, got.content.text, got.body) == (made.id, "text 1", b"")

    async def test_what_travelled_by_reference_is_given_whole(self, desk: Desk) -> None:
        envelope = given_up()
        envelope.content.blob.CopyFrom(Blob(sha256=bytes(32), size=1_000_000))
        made = letter(envelope)
        await desk.broker.dead_letter(made)
        assert (await desk.letters().get(AGENTS, made.id, DEFAULT)).content.text == "default: whole"

    async def test_what_could_not_be_decoded_is_given_as_its_first_bytes(self, desk: Desk) -> None:
        made = undecodable(b"\xff" * (SHOWN_BODY + 1))
        await desk.broker.dead_letter(made)
        got = await desk.letters().get(AGENTS, made.id, DEFAULT)
        assert (got.HasField("content"), len(got.body), got.letter.size) == (False, SHOWN_BODY, SHOWN_BODY + 1)

    async def test_what_is_not_there_or_somebody_elses_is_not_found(self, desk: Desk) -> None:
        made = await desk.keep(1)
        for letter_id, tenant in ((uuid7(), DEFAULT), (made.id, "other")):
            with pytest.raises(NotFound) as unknown:
                await desk.letters().get(AGENTS, letter_id, tenant)
            assert unknown.value.reason == "LETTER_UNKNOWN"


class TestRedrive:
    async def test_each_letter_is_dealt_with_by_the_end_of_its_message(self, desk: Desk) -> None:
        fates = [DEAD, turn_pb2.FATE_EXPIRED, DONE, turn_pb2.FATE_CANCELLED, None]
        made = [await desk.keep(number, fate) for number, fate in enumerate(fates)]
        unreadable = undecodable()
        await desk.broker.dead_letter(unreadable)

        results = await desk.redrive()

        expected = ["REDRIVEN", "REDRIVEN", "OBSOLETE", "OBSOLETE", "NOT_SETTLED", "UNDECODABLE"]
        assert outcomes(results) == expected
        assert [one.letter.letter_id for one in results] == [one.id for one in [*made, unreadable]]
        assert [bool(one.detail) for one in results] == [False, False, True, True, True, True]
        assert await desk.left() == [made[4].id, unreadable.id]
        again = await desk.mailed(2)
        assert [(one.target.session, one.content.text) for one in again] == [("s0", "text 0"), ("s1", "text 1")]
        assert [(one.redrives, [death.reason for death in one.deaths]) for one in again] == [(1, ["MODEL_ERROR"])] * 2
        assert [one.number.stream for one in again] == [made[0].id, made[1].id]

    async def test_what_the_server_gave_up_goes_to_its_mailbox_again_as_it_was(self, desk: Desk) -> None:
        made = await desk.keep(1, fate=None, worker_id="", reason="DELIVERY_LIMIT")

        assert outcomes(await desk.redrive()) == ["REDRIVEN"]

        assert await desk.left() == []
        (again,) = await desk.mailed(1)
        assert again.SerializeToString() == made.body

    async def test_a_dry_run_says_the_same_and_changes_nothing(self, desk: Desk) -> None:
        for number, fate in enumerate([DEAD, DONE, None]):
            await desk.keep(number, fate)
        before = await desk.left()
        assert outcomes(await desk.redrive(dry_run=True)) == ["REDRIVEN", "OBSOLETE", "NOT_SETTLED"]
        assert await desk.left() == before
        await desk.mailed(0)
        assert outcomes(await desk.redrive()) == ["REDRIVEN", "OBSOLETE", "NOT_SETTLED"]

    @pytest.mark.parametrize("dry_run", [True, False])
    async def test_a_limit_counts_what_is_sent(self, desk: Desk, dry_run: bool) -> None:
        fates = [None, DONE, *[DEAD] * (2 * BATCH)]
        for number, fate in enumerate(fates):
            await desk.keep(number, fate)
        results = await desk.redrive(limit=BATCH + 3, dry_run=dry_run)
        assert outcomes(results) == ["NOT_SETTLED", "OBSOLETE", *["REDRIVEN"] * (BATCH + 3)]

    async def test_a_filter_leaves_the_others_alone(self, desk: Desk) -> None:
        made = [await desk.keep(number) for number in range(5)]
        wanted = frozenset([made[1].id, made[3].id, uuid7()])
        results = await desk.redrive(Filter(DEFAULT, ids=wanted))
        assert [one.letter.letter_id for one in results] == [made[1].id, made[3].id]
        assert await desk.left() == [made[0].id, made[2].id, made[4].id]

    async def test_it_looks_no_further_than_the_letters_that_were_named(self, desk: Desk) -> None:
        made = [await desk.keep(number) for number in range(20)]
        looked = _Through(desk.broker)
        wanted = Filter(DEFAULT, ids=frozenset([made[1].id, made[3].id]))
        async for _ in desk.letters(looked).redrive(AGENTS, wanted, limit=0, rate=0.0, dry_run=True):
            pass
        assert looked.shown == 4

    async def test_letters_of_another_tenant_are_not_touched(self, desk: Desk) -> None:
        envelope = given_up()
        envelope.target.tenant = "other"
        await desk.broker.dead_letter(letter(envelope))
        assert await desk.redrive() == []
        assert await desk.purge() == []
        assert len(await desk.left()) == 1

    async def test_a_rate_spreads_what_is_sent(self, desk: Desk) -> None:
        for number in range(12):
            await desk.keep(number, DONE if number == 5 else DEAD)
        clock = _Jumping()
        began, sent = clock.monotonic(), []
        letters = desk.letters(_Through(desk.broker, before=lambda: sent.append(clock.monotonic() - began)), clock)
        results = [one async for one in letters.redrive(AGENTS, EVERY, limit=0, rate=2.0, dry_run=False)]
        assert outcomes(results).count("REDRIVEN") == 11
        assert sent == [pytest.approx(number * 0.5) for number in range(11)]

    async def test_what_the_broker_does_not_take_stays_and_the_call_says_so(self, desk: Desk) -> None:
        """Given ten letters, when the broker refuses the fourth, then the others are redriven and reported, the fourth
        stays, and the call ends in the broker's error."""
        made = [await desk.keep(number) for number in range(10)]
        away = Unavailable("BROKER_AWAY", "the broker is away")
        broken = _Through(desk.broker, refuse={made[3].id: away})
        results = []
        with pytest.raises(Unavailable) as failed:
            async for one in desk.letters(broken).redrive(AGENTS, EVERY, limit=0, rate=0.0, dry_run=False):
                results.append(one.letter.letter_id)
        assert failed.value is away
        assert results == [one.id for one in made if one is not made[3]]
        assert await desk.left() == [made[3].id]

    async def test_a_letter_that_was_sent_and_not_let_go_brings_the_same_number_again(self, desk: Desk) -> None:
        """Given a redrive that is cut off between confirm and removal, when it is done again, then the receiver gets a
        copy with the same number, and the letter is gone."""
        made = await desk.keep(1)
        with pytest.raises(Unavailable) as failed:
            broken = _Through(desk.broker, keeps=True)
            await anext(desk.letters(broken).redrive(AGENTS, EVERY, limit=0, rate=0.0, dry_run=False))
        assert failed.value.reason == "LETTER_STAYS"
        assert await desk.left() == [made.id]
        assert outcomes(await desk.redrive()) == ["REDRIVEN"]
        first, second = await desk.mailed(2)
        assert first.number == second.number
        assert await desk.left() == []

    async def test_what_dies_again_meanwhile_is_left_to_the_next_call(self, desk: Desk) -> None:
        """Given a message that is given up again before the call ends, and a broker that shows the new letter too,
        then it is not redriven in circles."""
        for number in range(3):
            await desk.keep(number)

        class Deadly(_Through):
            @asynccontextmanager
            async def dead_letters(self, pool: str) -> AsyncIterator[AsyncIterator[HeldLetter]]:
                async def shown() -> AsyncIterator[HeldLetter]:
                    for _ in range(2):
                        async with desk.broker.dead_letters(pool) as letters:
                            async for one in letters:
                                yield one

                yield shown()

            async def publish_many(self, envelopes: list[Envelope], pool: str = "") -> list[TroupeError | None]:
                answers = await super().publish_many(envelopes, pool)
                for envelope in envelopes:
                    await desk.broker.dead_letter(letter(envelope))
                return answers

        letters = desk.letters(Deadly(desk.broker), _Jumping())
        results = [one async for one in letters.redrive(AGENTS, EVERY, limit=0, rate=10.0, dry_run=False)]
        assert outcomes(results) == ["REDRIVEN"] * 3
        assert len(await desk.left()) == 3

    async def test_two_at_the_same_time_send_nothing_under_two_numbers(self, desk: Desk) -> None:
        made = [await desk.keep(number) for number in range(100)]
        both = await asyncio.gather(desk.redrive(), desk.redrive())
        assert {one.letter.letter_id for results in both for one in results} == {one.id for one in made}
        assert await desk.left() == []
        mailed = await desk.mailed(sum(len(results) for results in both))
        assert len({(one.number.stream, one.number.sequence) for one in mailed}) == 100

    async def test_a_client_that_goes_ends_it(self, desk: Desk) -> None:
        """Given a slow redrive, when its reader goes, then nothing more is sent."""
        for number in range(10):
            await desk.keep(number)
        results = desk.letters(clock=_Jumping()).redrive(AGENTS, EVERY, limit=0, rate=5.0, dry_run=False)
        await anext(results)
        await results.aclose()
        assert len(await desk.left()) == 9
        await desk.mailed(1)

    async def test_one_that_is_cancelled_while_it_waits_ends(self, desk: Desk) -> None:
        for number in range(10):
            await desk.keep(number)
        clock = FakeClock()
        answered = asyncio.Event()

        async def read() -> None:
            async for _ in desk.letters(clock=clock).redrive(AGENTS, EVERY, limit=0, rate=1.0, dry_run=False):
                answered.set()

        task = asyncio.create_task(read())
        await answered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(await desk.left()) == 9

    async def test_unordered_work_goes_back_to_its_pool(self, desk: Desk) -> None:
        envelope = given_up()
        envelope.attempt = 3
        made = letter(envelope, pool="encoders")
        await desk.broker.dead_letter(made)
        assert outcomes(await desk.redrive(pool="encoders")) == ["REDRIVEN"]
        (again,) = await desk.mailed(1, task_queue("encoders"))
        assert (again.id, again.attempt, again.redrives) == (envelope.id, 0, 1)
        assert await desk.left("encoders") == []

    async def test_its_first_sent_is_now(self, desk: Desk) -> None:
        await desk.keep(1)
        clock = FakeClock(now=DIED + 5_000)
        async for _ in desk.letters(clock=clock).redrive(AGENTS, EVERY, limit=0, rate=0.0, dry_run=False):
            pass
        (again,) = await desk.mailed(1)
        assert (seconds(again.first_sent), seconds(again.expires)) == (DIED + 5_000, DIED + 8_600)

    async def test_a_thousand_are_redriven(self, desk: Desk) -> None:
        made = [await desk.keep(number) for number in range(1_000)]
        results = [
            one
            async for one in desk.letters(clock=SystemClock()).redrive(AGENTS, EVERY, limit=0, rate=0.0, dry_run=False)
        ]
        assert [one.letter.letter_id for one in results] == [one.id for one in made]
        assert set(outcomes(results)) == {"REDRIVEN"}
        assert await desk.left() == []
        assert [one.number.stream for one in await desk.mailed(1_000)] == [one.id for one in made]


class TestPurge:
    async def test_letters_go_and_their_records_are_kept_no_longer_than_others(self, desk: Desk) -> None:
        made = [await desk.keep(number) for number in range(3)]
        keys = [SessionKey.parse(one.session) for one in made]
        later = DIED + RECORD_KEPT + 1

        purged = await desk.purge(Filter(DEFAULT, ids=frozenset([made[1].id])))
        await desk.store.forget(later, later)

        assert [one.letter.letter_id for one in purged] == [made[1].id]
        assert await desk.left() == [made[0].id, made[2].id]
        records = [await desk.store.record(key, one.message_id) for key, one in zip(keys, made, strict=True)]
        assert [record is None for record in records] == [False, True, False]

    async def test_what_cannot_be_read_goes_too(self, desk: Desk) -> None:
        made = undecodable()
        await desk.broker.dead_letter(made)
        assert [one.letter.letter_id for one in await desk.purge()] == [made.id]
        assert await desk.left() == []

    async def test_a_dry_run_changes_nothing(self, desk: Desk) -> None:
        await desk.keep(1)
        assert len(await desk.purge(dry_run=True)) == 1
        assert len(await desk.left()) == 1

    async def test_a_limit_leaves_the_rest(self, desk: Desk) -> None:
        made = [await desk.keep(number) for number in range(BATCH + 10)]
        assert len(await desk.purge(limit=BATCH + 3)) == BATCH + 3
        assert await desk.left() == [one.id for one in made[BATCH + 3 :]]

    async def test_what_the_broker_keeps_is_not_said_to_be_gone(self, desk: Desk) -> None:
        await desk.keep(1)
        letters = desk.letters(_Through(desk.broker, keeps=True))
        with pytest.raises(Unavailable):
            await anext(letters.purge(AGENTS, EVERY, limit=0, dry_run=False))
        assert len(await desk.left()) == 1


class _Jumping(FakeClock):
    """Time passes by itself when somebody sleeps."""

    async def sleep(self, seconds: float) -> None:
        self.advance(max(0.0, seconds))


@dataclass
class _Shown:
    letter: DeadLetter

    async def remove(self) -> None:
        raise AssertionError("nobody removes it")


class _Through:
    """The broker, but that it fails as a test says: `refuse` what is published in these streams, `keeps` letters that
    are to go. `before` is called before each message."""

    def __init__(
        self,
        broker: Any,
        *,
        refuse: dict[str, TroupeError] | None = None,
        keeps: bool = False,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        self._broker, self._refuse, self._keeps, self._before = broker, refuse or {}, keeps, before
        self.shown = 0

    async def publish_many(self, envelopes: list[Envelope], pool: str = "") -> list[TroupeError | None]:
        answers: list[TroupeError | None] = []
        for envelope in envelopes:
            self._before()
            refused = self._refuse.get(envelope.number.stream)
            if refused is None:
                await self._broker.publish(envelope, pool)
            answers.append(refused)
        return answers

    @asynccontextmanager
    async def dead_letters(self, pool: str) -> AsyncIterator[AsyncIterator[HeldLetter]]:
        async def shown(letters: AsyncIterator[HeldLetter]) -> AsyncIterator[HeldLetter]:
            async for held in letters:
                self.shown += 1
                yield _Kept(held.letter) if self._keeps else held

        async with self._broker.dead_letters(pool) as letters:
            yield shown(letters)


@dataclass
class _Kept:
    letter: DeadLetter

    async def remove(self) -> None:
        raise Unavailable("BROKER_AWAY", "the broker is away")
