"""The window of a SQLite mailbox against a model: commits, reads, failures and crashes come at any moment."""

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.mailboxes import message, number, queue_of

from troupe.broker import sqlite_box
from troupe.broker.port import Delivery, Subscription
from troupe.broker.queue import Stored
from troupe.broker.sqlite import SqliteBroker
from troupe.broker.sqlite_schema import SCHEMA
from troupe.chassis.clock import SystemClock
from troupe.chassis.errors import Unavailable
from troupe.chassis.sqlite import Database
from troupe.v1.envelope_pb2 import Envelope

QUEUE = queue_of(0)
PREFETCH = 3
WINDOW = 6
TIMERS = 2.0
"""Seconds after which every timer of the broker has run."""


@pytest.fixture(autouse=True)
def _small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_box, "WINDOW", WINDOW)


@dataclass
class _Job:
    function: Callable[[sqlite3.Connection], Any]
    future: "asyncio.Future[Any]"
    then: Callable[[Any], None] | None = None
    result: Any = None


class SteppedDatabase:
    """A Database whose threads take their steps when they are told: first a job's effect, later its answer."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.writes: list[_Job] = []
        self.committed: list[_Job] = []
        self.reads: list[_Job] = []
        self.found: list[_Job] = []

    def write(
        self, job: Callable[[sqlite3.Connection], Any], then: Callable[[Any], None] | None = None
    ) -> "asyncio.Future[Any]":
        self.writes.append(_Job(job, asyncio.get_running_loop().create_future(), then))
        return self.writes[-1].future

    def read(self, job: Callable[[sqlite3.Connection], Any]) -> "asyncio.Future[Any]":
        self.reads.append(_Job(job, asyncio.get_running_loop().create_future()))
        return self.reads[-1].future

    def commit(self, jobs: int) -> None:
        for job in self.writes[:jobs]:
            job.result = job.function(self.connection)
        self.committed += self.writes[:jobs]
        del self.writes[:jobs]

    def answer_writes(self) -> None:
        for job in self.committed:
            if job.then is not None:
                job.then(job.result)
            if not job.future.done():
                job.future.set_result(job.result)
        self.committed.clear()

    def look(self) -> None:
        for job in self.reads:
            job.result = job.function(self.connection)
        self.found += self.reads
        self.reads.clear()

    def answer_reads(self) -> None:
        for job in self.found:
            job.future.set_result(job.result)
        self.found.clear()

    def fail(self, jobs: list[_Job]) -> None:
        for job in jobs:
            if not job.future.done():
                job.future.set_exception(Unavailable("STORE_UNAVAILABLE", "the disk is full"))
        jobs.clear()


class _Loop(asyncio.SelectorEventLoop):
    """Its clock moves when it is told to, so that no timer is waited for."""

    now = 0.0

    def time(self) -> float:
        return self.now


class Mailbox(RuleBasedStateMachine):
    """The model: `live` are the confirmed messages that were not acked, in order; `times` says how often each was
    delivered to this process, or counted as such when it was found there."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = _Loop()
        self.loop.set_exception_handler(lambda _, context: self.wrong.append(context))
        self.wrong: list[dict[str, Any]] = []
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        for statement in SCHEMA.statements:
            self.connection.execute(statement)
        self.published = 0
        self.live: list[int] = []
        self.times: dict[int, int] = {}
        self.unacked: list[Delivery] = []
        self.subscription: Subscription | None = None
        self.listening = False

    @initialize()
    def begin(self) -> None:
        self._open()

    def teardown(self) -> None:
        self._end_publishers()
        self.loop.close()
        self.connection.close()

    @rule(count=st.integers(1, 4), until=st.sampled_from(["sent", "committed", "confirmed"]), cancelled=st.booleans())
    def publish(self, count: int, until: str, cancelled: bool) -> None:
        async def start() -> None:
            for _ in range(count):
                self.published += 1
                task = asyncio.create_task(self.broker.publish(message(self.published)))
                await asyncio.sleep(0)
                task.add_done_callback(lambda task: task.cancelled() or task.exception())
                if cancelled:
                    task.cancel()

        self._run(start())
        if until != "sent":
            self.database.commit(1_000)
        if until == "confirmed":
            self._answer_writes()

    @precondition(lambda self: self.database.writes)
    @rule(jobs=st.integers(1, 8))
    def commit(self, jobs: int) -> None:
        self.database.commit(jobs)

    @precondition(lambda self: self.database.committed)
    @rule()
    def answer_writes(self) -> None:
        self._answer_writes()

    @precondition(lambda self: self.database.reads)
    @rule()
    def look(self) -> None:
        self.database.look()

    @precondition(lambda self: self.database.found)
    @rule()
    def answer_reads(self) -> None:
        self.database.answer_reads()
        self._turn()

    @precondition(lambda self: self.database.reads)
    @rule(count=st.integers(1, 3), confirmed=st.booleans(), seen=st.booleans())
    def publish_during_a_read(self, count: int, confirmed: bool, seen: bool) -> None:
        """The race that the window is about: does the read see it, was it confirmed by then."""
        if not seen:
            self.database.look()
        self.publish(count=count, until="confirmed" if confirmed else "committed", cancelled=False)
        self.database.look()
        self.answer_reads()

    @precondition(lambda self: self.database.writes or self.database.reads)
    @rule()
    def disk_full(self) -> None:
        self.database.fail(self.database.writes)
        self.database.fail(self.database.reads)
        self._turn()

    @precondition(lambda self: self.subscription is not None)
    @rule()
    def let_time_pass(self) -> None:
        self.loop.now += TIMERS
        self._turn()

    @precondition(lambda self: self.subscription is None)
    @rule()
    def consume(self) -> None:
        consumed = self.broker

        def handle(delivery: Delivery) -> None:
            if consumed is self.broker:  # another one has crashed
                self._deliver(delivery)

        self.listening = True
        self.subscription = self._run(consumed.consume(QUEUE, handle, PREFETCH))
        self._turn()

    @precondition(lambda self: self.unacked)
    @rule(indices=st.lists(st.integers(0, PREFETCH - 1), min_size=1, unique=True), at_once=st.booleans())
    def ack(self, indices: list[int], at_once: bool) -> None:
        for delivery in [self.unacked[index] for index in indices if index < len(self.unacked)]:
            self._run(self._ack(delivery))
            if not at_once:
                self._turn()

    @precondition(lambda self: self.listening and self.unacked)
    @rule()
    def cancel(self) -> None:
        self.listening = False
        self._run(cast(Subscription, self.subscription).cancel())

    @precondition(lambda self: self.subscription is not None and (self.unacked or not self.listening))
    @rule()
    def close(self) -> None:
        self._run(cast(Subscription, self.subscription).close())
        self._forget_subscription()

    @precondition(lambda self: len(self.live) > PREFETCH and self.subscription is not None)
    @rule()
    def crash_and_reopen(self) -> None:
        """What was handed over and not committed is lost, acks too."""
        self._answer_writes()
        self._end_publishers()
        rows = self._rows()
        assert [n for n in rows if n in self.live] == self.live, "a confirmed message was lost"
        self._forget_subscription()
        self.live = rows
        self.times = dict.fromkeys(rows, 1)
        self._open()

    @precondition(lambda self: self.subscription is not None)
    @rule()
    def settle_down(self) -> None:
        """When nothing is left to do, the consumer has all that there is room for, and the file what is live."""
        for _ in range(len(self.live) // WINDOW + 5):
            self.loop.now += TIMERS
            self._turn()
            self.database.commit(1_000)
            self._answer_writes()
            self.database.look()
            self.database.answer_reads()
        if self.listening:
            assert [number(delivery) for delivery in self.unacked] == self.live[:PREFETCH]
        assert self._rows() == self.live
        depth = self.loop.create_task(self.broker.depth(QUEUE))
        self._turn()
        self.database.look()
        self.database.answer_reads()
        assert self._run(depth).messages == len(self.live)
        assert (depth.result().oldest is None) == (not self.live)

    @invariant()
    def nothing_went_wrong_on_the_loop(self) -> None:
        for context in self.wrong:
            raise context.get("exception") or AssertionError(context["message"])

    @invariant()
    def prefetch_is_kept(self) -> None:
        assert len(self.unacked) <= PREFETCH

    @invariant()
    def what_was_read_is_in_memory_once_and_in_order(self) -> None:
        if QUEUE not in self.broker._boxes:
            return
        box = self.broker._boxes[QUEUE]
        ready = [_number(stored) for stored in box.queue._ready]
        assert len(ready) <= WINDOW + PREFETCH
        assert [number(delivery) for delivery in self.unacked] + ready == [
            n for n in self._rows(up_to=box._read) if n in self.live
        ]

    def _deliver(self, delivery: Delivery) -> None:
        assert self.listening, "a delivery after cancel"
        now = number(delivery)
        delivered = [number(earlier) for earlier in self.unacked]
        assert now in self.live, "a message that was acked, or never confirmed"
        assert [n for n in self.live if n <= now and n not in delivered] == [now], "out of order, or twice"
        assert delivery.redeliveries == self.times[now]
        self.times[now] += 1
        self.unacked.append(delivery)

    async def _ack(self, delivery: Delivery) -> None:
        self.unacked.remove(delivery)
        self.live.remove(number(delivery))
        delivery.ack()

    def _forget_subscription(self) -> None:
        self.subscription, self.listening, self.unacked = None, False, []

    def _answer_writes(self) -> None:
        def confirm(job: _Job) -> None:
            if isinstance(job.result, Stored):
                confirmed = _number(job.result)
                self.live.append(confirmed)
                self.times[confirmed] = 0

        async def answer() -> None:
            for job in self.database.committed:
                confirm(job)
            self.database.answer_writes()

        self._run(answer())

    def _end_publishers(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self._turn()

    def _open(self) -> None:
        self.database = SteppedDatabase(self.connection)
        self.broker = SqliteBroker(cast(Database, self.database), SystemClock())
        declared = self.loop.create_task(self.broker.declare(1))
        self._turn()
        self.database.commit(1)
        self._answer_writes()
        self._run(declared)

    def _rows(self, up_to: int = 2**63 - 1) -> list[int]:
        rows = self.connection.execute(
            "SELECT id, body, published FROM message WHERE id <= ? ORDER BY id", (up_to,)
        ).fetchall()
        return [_number(Stored(*row)) for row in rows]

    def _turn(self) -> None:
        async def turns() -> None:
            for _ in range(5):
                await asyncio.sleep(0)

        self._run(turns())

    def _run(self, work: "Coroutine[Any, Any, Any] | asyncio.Task[Any]") -> Any:
        return self.loop.run_until_complete(work)


def _number(stored: Stored) -> int:
    return Envelope.FromString(stored.body).number.sequence


TestWindow = Mailbox.TestCase
TestWindow.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
