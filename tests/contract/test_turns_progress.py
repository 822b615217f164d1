"""What a shard says of its own progress: what could run and does not, since when, and what it waits for."""

import asyncio
import contextlib
import time
from typing import Any

import pytest
from support.hosting import Backends, Worker, key, until
from support.scripted_behaviour import Scripted

from troupe.chassis.errors import NotFound, Unavailable
from troupe.dataplane.actors.behaviour import Send, TurnContext, TurnResult
from troupe.dataplane.actors.progress import BROKER, CODE, STORE, HeldUp
from troupe.v1 import turn_pb2
from troupe.v1.envelope_pb2 import Content


class Hang:
    """A call that comes and gets no answer before `open` is set."""

    def __init__(self) -> None:
        self.entered, self.open = asyncio.Event(), asyncio.Event()

    async def __call__(self, *_: object) -> None:
        self.entered.set()
        await self.open.wait()


def held(worker: Worker) -> HeldUp | None:
    """What is held up in the one shard, if that is so by now."""
    found = worker.host.held_up().get(0)
    return found if found is not None and found.since <= time.monotonic() else None


@pytest.mark.parametrize(
    ("line", "call", "text", "cause"),
    [
        ("store_line", "load", "hello", STORE),
        ("store_line", "commit", "hello", STORE),
        ("store_line", "journal", "steps", STORE),
        ("broker_line", "dead_letter", "broken", BROKER),
    ],
)
async def test_a_message_that_waits_for_a_server_is_held_up_by_it(
    backends: Backends, line: str, call: str, text: str, cause: int
) -> None:
    script = Scripted()
    script.does["steps"] = script.steps
    script.fails("broken", NotFound("GONE", "no such thing"))
    async with backends.worker(script) as worker:
        hang = Hang()
        getattr(worker, line).before[call] = hang
        began = time.monotonic()
        message_id = await worker.send(text)
        await hang.entered.wait()
        found = held(worker)
        assert found is not None
        assert began <= found.since <= time.monotonic()
        assert (found.cause, found.key) == (cause, key())
        assert found.message_id == ("" if call == "load" else message_id)
        # And it stays the same while that lasts
        await asyncio.sleep(0.02)
        assert held(worker) == found
        hang.open.set()
        await worker.end_of(message_id)
        await until(lambda: held(worker) is None)


async def test_of_writes_side_by_side_the_oldest_counts_until_all_are_done(backends: Backends) -> None:
    script, hang = Scripted(), Hang()
    second = Hang()

    async def two_steps(turn: TurnContext) -> str:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(turn.journal.keep({"one": b""}, starts=True))
            await hang.entered.wait()
            worker.store_line.before["journal"] = second
            tasks.create_task(turn.journal.keep({"two": b""}, starts=True))
        done.set()
        await asyncio.Event().wait()
        return ""

    script.does["two"], done = two_steps, asyncio.Event()
    async with backends.worker(script, drain_timeout=0.0) as worker:
        worker.store_line.before["journal"] = hang
        await worker.send("two")
        await second.entered.wait()
        oldest = held(worker)
        assert oldest is not None
        hang.open.set()
        await until(lambda: (found := held(worker)) is not None and found.since > oldest.since)
        assert done.is_set() is False
        second.open.set()
        await done.wait()
        assert held(worker) is None, "its own time has come again"


async def test_a_turn_is_held_up_from_its_deadline_on(backends: Backends) -> None:
    script, ends = Scripted(deadline=1.0), asyncio.Event()
    entered: list[float] = []

    async def deaf(_: TurnContext) -> str:
        entered.append(time.monotonic())
        while not ends.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await ends.wait()
        return ""

    script.does["deaf"] = deaf
    async with backends.worker(script) as worker:
        began = time.monotonic()
        message_id = await worker.send("deaf")
        await worker.send("behind")
        await until(lambda: script.started)
        assert held(worker) is None
        await until(lambda: held(worker) is not None)
        found = held(worker)
        ends.set()
        assert found is not None
        assert began + 1.0 <= found.since <= entered[0] + 1.0
        assert (found.cause, found.message_id) == (CODE, message_id)
        await until(lambda: held(worker) is None)


def later(script: Scripted) -> None:
    script.retry = type(script.retry)(3, 60.0, 60.0)
    script.fails("again", Unavailable("AWAY", "gone"))


async def send_beyond_a_gap(worker: Worker) -> None:
    stream = worker.gateway._sender._stream(key())
    stream.sequence += 1
    await worker.send("beyond")


@pytest.mark.parametrize("why", ["retry", "gap", "another owner", "a turn in time", "nothing"])
async def test_what_waits_for_something_else_is_not_held_up(backends: Backends, why: str) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.several(script, 2) as (first, second):
        worker = first
        await worker.ask("hello")
        match why:
            case "retry":
                later(script)
                await worker.send("again")
                await until(lambda: worker.actor().waiting == 1)
                await worker.send("behind")
            case "gap":
                await send_beyond_a_gap(worker)
            case "another owner":
                await first.send("slow")
                await slow.entered.wait()
                await first.release(second.owner.instance)
                worker, second.owner = second, type(second.owner)(0, first.owner.epoch + 2, second.owner.instance)
                await second.hold(first.owner.instance)
            case "a turn in time":
                await worker.send("slow")
                await slow.entered.wait()
                await worker.send("behind")
        async with asyncio.timeout(10):
            while (await worker.real_store.backlog(0)).messages != {"nothing": 0, "retry": 2}.get(why, 1):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        await worker.ask("hello", "another")
        assert held(worker) is None
        slow.open.set()


@pytest.mark.parametrize(
    ("line", "call", "cause"), [("store_line", "claim", STORE), ("broker_line", "consume", BROKER)]
)
async def test_a_shard_that_cannot_be_taken_is_held_up_as_a_whole(
    backends: Backends, monkeypatch: pytest.MonkeyPatch, line: str, call: str, cause: int
) -> None:
    async with backends.worker(Scripted()) as worker:
        await worker.host.hold([])
        hang = Hang()
        getattr(worker, line).before[call] = hang
        holding = asyncio.ensure_future(worker.host.hold([worker.owner]))
        await hang.entered.wait()
        found = held(worker)
        assert found is not None
        assert (found.cause, found.key) == (cause, None)
        hang.open.set()
        await holding
        assert held(worker) is None


async def test_a_shard_whose_mailbox_is_out_of_reach_is_held_up(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:

        class Cut:
            connected = False

        shard = worker.host._shards._held[0]
        subscription: Any = shard.subscription
        cut: Any = Cut()
        shard.subscription = cut
        first = held(worker)
        assert first is not None
        assert (first.cause, first.key) == (BROKER, None)
        assert held(worker) == first
        shard.subscription = subscription
        assert held(worker) is None


async def test_messages_behind_what_is_owed_to_others_are_held_up_by_the_broker(backends: Backends) -> None:
    class Sending(Scripted):
        async def run(self, turn: TurnContext) -> TurnResult:
            result = await super().run(turn)
            if turn.key.session != "s":
                return result
            return TurnResult(result.reply, result.state, sends=[Send(key("other"), Content(text="to you"))])

    async with backends.worker(Sending()) as worker:
        hang = Hang()
        worker.broker_line.before["publish_many"] = hang
        await worker.ask("hello")
        await hang.entered.wait()
        assert held(worker) is None, "what is sent goes out beside its turns"
        # When the session is taken up anew, its turns come after what it owes
        worker.host._shards.defective(worker.owner)
        await until(lambda: (found := held(worker)) is not None and found.cause == BROKER and found.key == key())
        hang.open.set()
        assert (await worker.ask("next")).fate == turn_pb2.FATE_DONE


async def test_what_is_taken_and_settled_is_counted(backends: Backends) -> None:
    script = Scripted()
    script.fails("flaky", Unavailable("AWAY", "gone"), times=1)
    async with backends.worker(script) as worker:
        for text in ("one", "flaky", "three"):
            await worker.ask(text)
        (status,) = worker.host.statuses()
        assert (status.taken, status.settled) == (3, 3)
