"""Dead letters over every broker: listed, and shown one by one."""

import random
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from support.dead_letter_desk import EVERY, Desk, Through, at_once, whole
from support.fake_clock import FakeClock
from support.letters import given_up, letter, undecodable

from troupe.broker.addressing import DEFAULT
from troupe.broker.port import AGENTS, DeadLetter
from troupe.chassis.errors import NotFound
from troupe.chassis.ids import uuid7
from troupe.dataplane.dead_letters.filter import Filter
from troupe.dataplane.dead_letters.letters import SHOWN_BODY, DeadLetters
from troupe.v1.envelope_pb2 import Blob


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

        class Endless(Through):
            @asynccontextmanager
            async def dead_letters(self, pool: str) -> AsyncIterator[AsyncIterator[Any]]:
                async def held() -> AsyncIterator[Any]:
                    for number in range(3_000):
                        yield _Shown(letter(given_up(text=f"{number:0>65536}")))

                yield held()

        broker: Any = Endless(None)
        store: Any = None
        letters = DeadLetters(broker, store, FakeClock(), ready=at_once, whole=whole)
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


@dataclass
class _Shown:
    letter: DeadLetter

    async def remove(self) -> None:
        raise AssertionError("nobody removes it")
