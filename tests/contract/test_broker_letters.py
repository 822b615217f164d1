"""What every broker promises of dead letters: kept whole, by pool, until somebody removes them."""

from dataclasses import replace

import pytest
from support.brokers import Opened, letter, letters

from troupe.chassis.errors import NotFound


async def test_letters_are_kept_whole_and_in_order(opened: Opened) -> None:
    kept = [letter(f"m-{number}") for number in range(250)]
    async with opened() as broker:
        await broker.declare(1)
        for each in kept:
            await broker.dead_letter(each)

        assert await letters(broker) == kept
        assert await letters(broker) == kept


async def test_no_text_keeps_a_letter_from_being_kept(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        await broker.dead_letter(letter(error="half a surrogate: \udc80", session="nul \0"))

        (kept,) = await letters(broker)

        assert kept.error.startswith("half a surrogate: ")
        assert kept.session == "nul \0"


async def test_the_same_letter_can_be_kept_again(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        kept, other = letter(), letter()
        for each in (kept, other, kept):
            await broker.dead_letter(each)

        assert {each.id for each in await letters(broker)} == {kept.id, other.id}


async def test_what_is_removed_is_gone_and_the_rest_stays(opened: Opened) -> None:
    kept = [letter(f"m-{number}") for number in range(6)]
    async with opened() as broker:
        await broker.declare(1)
        for each in kept:
            await broker.dead_letter(each)

        async with broker.dead_letters() as held:
            async for each_held in held:
                if int(each_held.letter.message_id[-1]) % 2:
                    await each_held.remove()

        assert await letters(broker) == kept[::2]


async def test_letters_stay_when_the_iteration_is_left_early(opened: Opened) -> None:
    kept = [letter(f"m-{number}") for number in range(4)]
    async with opened() as broker:
        await broker.declare(1)
        for each in kept:
            await broker.dead_letter(each)

        async with broker.dead_letters() as held:
            first = await anext(held)
            await anext(held)
            await first.remove()

        assert sorted(await letters(broker), key=lambda each: each.id) == kept[1:]


async def test_letters_stay_when_whoever_looks_at_them_fails(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        kept = letter()
        await broker.dead_letter(kept)

        with pytest.raises(ZeroDivisionError):
            async with broker.dead_letters() as held:
                await anext(held)
                raise ZeroDivisionError

        assert await letters(broker) == [kept]


async def test_each_is_shown_once_and_those_that_come_meanwhile_are_for_the_next_look(opened: Opened) -> None:
    kept = [letter(f"m-{number}") for number in range(3)]
    async with opened() as broker:
        await broker.declare(1)
        for each in kept:
            await broker.dead_letter(each)

        seen = []
        async with broker.dead_letters() as held:
            async for each_held in held:
                seen.append(each_held.letter)
                # One that is redriven may die again while the rest is looked at.
                await each_held.remove()
                await broker.dead_letter(replace(each_held.letter, id=letter().id, attempts=9))

        assert seen == kept
        again = sorted(await letters(broker), key=lambda each: each.message_id)
        assert [(each.message_id, each.attempts) for each in again] == [
            ("m-0", 9),
            ("m-1", 9),
            ("m-2", 9),
        ]


async def test_letters_of_other_pools_are_left_alone(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1, ["gpu", "cpu"])
        of = {pool: letter(pool=pool) for pool in ("agents", "gpu", "cpu")}
        for each in of.values():
            await broker.dead_letter(each)

        assert await letters(broker, "gpu") == [of["gpu"]]
        async with broker.dead_letters("gpu") as held:
            async for each_held in held:
                await each_held.remove()

        assert await letters(broker, "gpu") == []
        assert await letters(broker, "cpu") == [of["cpu"]]
        assert await letters(broker) == [of["agents"]]


async def test_a_pool_that_was_not_declared_is_not_found(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1, ["gpu"])

        with pytest.raises(NotFound, match="no pool cpu"):
            async with broker.dead_letters("cpu"):
                pass
        assert await letters(broker, "gpu") == []


async def test_removing_twice_changes_nothing(opened: Opened) -> None:
    async with opened() as broker:
        await broker.declare(1)
        await broker.dead_letter(letter())

        async with broker.dead_letters() as held:
            async for each_held in held:
                await each_held.remove()
                await each_held.remove()

        assert await letters(broker) == []
