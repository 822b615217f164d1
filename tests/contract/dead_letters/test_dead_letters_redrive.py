"""Dead letters over every broker: sent again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.dead_letter_desk import DEAD, DONE, EVERY, OWNER, Desk, Jumping, Through, outcomes
from support.fake_clock import FakeClock
from support.letters import DIED, given_up, letter, undecodable

from troupe.broker.addressing import DEFAULT, SessionKey, task_queue
from troupe.broker.port import AGENTS, HeldLetter
from troupe.chassis.clock import SystemClock
from troupe.chassis.errors import TroupeError, Unavailable
from troupe.chassis.ids import uuid7
from troupe.chassis.wire import seconds
from troupe.dataplane.actors.entry import entry_of
from troupe.dataplane.dead_letters.filter import Filter
from troupe.dataplane.dead_letters.letters import BATCH
from troupe.dataplane.state.port import Placed, TurnCommit
from troupe.dataplane.state.session import Record
from troupe.v1 import turn_pb2
from troupe.v1.envelope_pb2 import Envelope


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

    async def test_a_redriven_message_is_not_sent_before_it_has_ended_again(self, desk: Desk) -> None:
        """Its new letter is confirmed before its end is on record. A copy sent in between would be one of what runs,
        and passed over; and its letter gone."""
        await desk.keep(1)
        assert outcomes(await desk.redrive()) == ["REDRIVEN"]
        (again,) = await desk.mailed(1)
        key, runs = SessionKey.of(again.target), entry_of(again, DIED)
        assert await desk.store.put(OWNER, key, runs, again.SerializeToString()) is Placed.NEW
        await desk.store.begin(OWNER, key, runs)
        newer = letter(again)
        await desk.broker.dead_letter(newer)

        assert outcomes(await desk.redrive()) == ["NOT_SETTLED"]
        assert await desk.left() == [newer.id]

        ended = TurnCommit(
            key=key,
            number=runs.number,
            message_id=again.id,
            record=Record(DEAD, b"again", runs.digest),
            version=0,
            now=DIED,
        )
        await desk.store.commit(OWNER, ended)
        assert outcomes(await desk.redrive()) == ["REDRIVEN"]
        assert await desk.left() == []

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
        looked = Through(desk.broker)
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
        clock = Jumping()
        began, sent = clock.monotonic(), []
        letters = desk.letters(Through(desk.broker, before=lambda: sent.append(clock.monotonic() - began)), clock)
        results = [one async for one in letters.redrive(AGENTS, EVERY, limit=0, rate=2.0, dry_run=False)]
        assert outcomes(results).count("REDRIVEN") == 11
        assert sent == [pytest.approx(number * 0.5) for number in range(11)]

    async def test_what_the_broker_does_not_take_stays_and_the_call_says_so(self, desk: Desk) -> None:
        """Given ten letters, when the broker refuses the fourth, then the others are redriven and reported, the fourth
        stays, and the call ends in the broker's error."""
        made = [await desk.keep(number) for number in range(10)]
        away = Unavailable("BROKER_AWAY", "the broker is away")
        broken = Through(desk.broker, refuse={made[3].id: away})
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
            broken = Through(desk.broker, keeps=True)
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

        class Deadly(Through):
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

        letters = desk.letters(Deadly(desk.broker), Jumping())
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
        results = desk.letters(clock=Jumping()).redrive(AGENTS, EVERY, limit=0, rate=5.0, dry_run=False)
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
