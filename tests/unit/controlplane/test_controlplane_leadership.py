"""What a Leader does around its writing part. Time is virtual."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest
from fault.simulation.loop import VirtualLoop
from fault.simulation.worker import LoopClock

from troupe.chassis.errors import DataLoss, Unavailable
from troupe.controlplane.leadership import Leader, Standing
from troupe.controlplane.stores.memory import MemoryRevisionStore
from troupe.controlplane.stores.port import Deposed, Leadership
from troupe.controlplane.whole import whole


def virtually(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(scenario())
    finally:
        loop.close()


class Store(MemoryRevisionStore):
    """Which can be made to fail, or to answer nothing."""

    def __init__(self) -> None:
        super().__init__(4)
        self.fails: Exception | None = None
        self.hangs = False

    async def leadership(self) -> Leadership:
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails is not None:
            raise self.fails
        return await super().leadership()


class Writing:
    """The writing part: notes when it began and ended, and ends as it is told."""

    def __init__(self, leader: Leader) -> None:
        self.leader = leader
        self.terms: list[int] = []
        self.ended: list[float] = []
        self.held_at_the_end: list[bool] = []
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __call__(self, term: int) -> None:
        self.terms.append(term)
        self.end = asyncio.get_running_loop().create_future()
        try:
            await self.end
        finally:
            self.ended.append(asyncio.get_running_loop().time())
            self.held_at_the_end.append(self.leader.held is not None)


def leader(store: MemoryRevisionStore, name: str = "me") -> Leader:
    return Leader(store, LoopClock(), name, f"{name}:1")


async def begun(store: MemoryRevisionStore, name: str = "me") -> "tuple[Writing, asyncio.Task[None]]":
    leading = leader(store, name)
    writing = Writing(leading)
    task = asyncio.create_task(leading.run(writing))
    await asyncio.sleep(0.1)
    return writing, task


async def over(task: "asyncio.Task[None]") -> BaseException:
    """How it ended, once it is cancelled."""
    task.cancel()
    (end,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(end, BaseException)
    return end


def test_it_writes_in_the_term_that_it_leads_in_and_resigns_when_it_is_stopped() -> None:
    async def scenario() -> None:
        store = Store()
        writing, task = await begun(store)
        assert writing.terms == [1]
        assert writing.leader.held == await store.leadership() == Leadership(1, "me", "me:1")
        await asyncio.sleep(60.0)
        held = writing.leader.held
        assert held is not None
        assert held.renewals == 30, "every 2 s"
        assert isinstance(await over(task), asyncio.CancelledError)
        assert len(writing.ended) == 1
        assert await store.leadership() == Leadership(1)

    virtually(scenario)


def test_it_stands_by_while_another_leads_and_says_who() -> None:
    async def scenario() -> None:
        store = Store()
        first, first_task = await begun(store, "first")
        second, second_task = await begun(store, "second")
        assert second.leader.standing == Standing(1, "first", "first:1", leads=False)
        assert first.leader.standing == Standing(1, "first", "first:1", leads=True)
        await asyncio.sleep(120.0)
        assert second.terms == []
        # When the first stops, then the second leads within a retry
        changed = asyncio.create_task(second.leader.changed(second.leader.standing))
        await over(first_task)
        await asyncio.sleep(2.1)
        assert second.terms == [2]
        assert await changed == Standing(2, "second", "second:1", leads=True)
        await over(second_task)

    virtually(scenario)


def test_a_change_that_happened_already_is_not_waited_for() -> None:
    async def scenario() -> None:
        store = Store()
        writing, task = await begun(store)
        nobody = Standing(0, "", "", leads=False)
        assert await writing.leader.changed(nobody) == writing.leader.standing
        await over(task)

    virtually(scenario)


def test_who_finds_another_in_the_record_stops_at_once() -> None:
    async def scenario() -> None:
        store = Store()
        writing, task = await begun(store)
        await store.lead(await store.leadership(), "other", "other:1")
        await asyncio.sleep(2.0)
        assert writing.held_at_the_end == [False]
        assert writing.leader.standing == Standing(2, "other", "other:1", leads=False)
        assert await store.leadership() == Leadership(2, "other", "other:1"), "it resigns from nothing"
        # And when that one is silent for the lease, it leads again
        await asyncio.sleep(20.0)
        assert writing.terms == [1, 3]
        await over(task)

    virtually(scenario)


@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_who_cannot_renew_stops_at_the_deadline_and_leads_again_in_a_new_term(how: str) -> None:
    async def scenario() -> None:
        store = Store()
        writing, task = await begun(store)
        if how == "fails":
            store.fails = Unavailable("GONE", "the store is away")
        else:
            store.hangs = True
        await asyncio.sleep(9.8)
        assert writing.ended == []
        await asyncio.sleep(0.2)
        assert writing.ended == [10.0]
        assert writing.held_at_the_end == [False]
        assert writing.leader.standing == Standing(1, "", "", leads=False), "nobody is sent here"
        if how == "fails":
            await asyncio.sleep(100.0)
            store.fails = None
            await asyncio.sleep(2.1)
            assert writing.terms == [1, 2]
        await over(task)

    virtually(scenario)


@pytest.mark.parametrize(
    "end", [None, Unavailable("X", "x"), Deposed("X", "x"), ExceptionGroup("", [Deposed("X", "x")])]
)
def test_a_writing_part_that_ends_by_itself_is_begun_again_in_a_new_term(end: Exception | None) -> None:
    async def scenario() -> None:
        store = Store()
        writing, task = await begun(store)
        if end is None:
            writing.end.set_result(None)
        else:
            writing.end.set_exception(end)
        await asyncio.sleep(0.1)
        assert await store.leadership() == Leadership(1), "another could lead meanwhile"
        await asyncio.sleep(2.0)
        assert writing.terms == [1, 2]
        await over(task)

    virtually(scenario)


def test_any_other_error_of_the_writing_part_is_raised_after_resigning() -> None:
    async def scenario() -> None:
        store = Store()
        writing, task = await begun(store)
        writing.end.set_exception(ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            await task
        assert await store.leadership() == Leadership(1)

    virtually(scenario)


def test_a_store_that_cannot_be_read_is_no_store_to_wait_for() -> None:
    async def scenario() -> None:
        store = Store()
        writing, task = await begun(store)
        store.fails = DataLoss("DATA_BROKEN", "it is broken")
        with pytest.raises(DataLoss):
            await task
        assert len(writing.ended) == 1

    virtually(scenario)


def test_a_term_that_is_known_already_is_led_beyond() -> None:
    async def scenario() -> None:
        store = Store()
        writing, task = await begun(store)
        writing.leader.exceed(0)
        await asyncio.sleep(0.1)
        assert writing.ended == [], "an older one says nothing"
        writing.leader.exceed(41)
        await asyncio.sleep(0.1)
        assert writing.held_at_the_end == [False]
        await asyncio.sleep(2.0)
        assert writing.terms == [1, 42]
        writing.leader.exceed(42)
        await asyncio.sleep(2.1)
        assert writing.terms == [1, 42, 43]
        await over(task)

    virtually(scenario)


def test_cancelling_it_in_the_middle_of_losing_the_lead_is_not_lost() -> None:
    async def scenario() -> None:
        store = Store()
        _, task = await begun(store)
        writing_ends = asyncio.Event()

        async def slow(_: int) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await whole(writing_ends.wait())

        await over(task)
        leading = leader(store, "slow")
        task = asyncio.create_task(leading.run(slow))
        await asyncio.sleep(0.1)
        leading.exceed(100)
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.sleep(0.1)
        assert not task.done(), "it ends after its writing part"
        writing_ends.set()
        (end,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(cast(BaseException, end), asyncio.CancelledError)

    virtually(scenario)
