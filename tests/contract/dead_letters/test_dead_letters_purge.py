"""Dead letters over every broker: dropped."""

import pytest
from support.dead_letter_desk import EVERY, Desk, Through
from support.letters import DIED, undecodable

from troupe.broker.addressing import DEFAULT, SessionKey
from troupe.broker.port import AGENTS
from troupe.chassis.errors import Unavailable
from troupe.dataplane.dead_letters.filter import Filter
from troupe.dataplane.dead_letters.letters import BATCH
from troupe.dataplane.state.session import RECORD_KEPT


class TestPurge:
    async def test_letters_go_and_their_records_are_kept_no_longer_than_others(self, desk: Desk) -> None:
        made = [await desk.keep(number) for number in range(3)]
        keys = [SessionKey.parse(one.session) for one in made]
        later = DIED + RECORD_KEPT + 1

        purged = await desk.purge(Filter(DEFAULT, ids=frozenset([made[1].id])))
        await desk.store.forget(later)

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
        letters = desk.letters(Through(desk.broker, keeps=True))
        with pytest.raises(Unavailable):
            await anext(letters.purge(AGENTS, EVERY, limit=0, dry_run=False))
        assert len(await desk.left()) == 1
