"""A shard that is handed over: nothing is lost, nothing runs twice, and what runs comes to its end where it began."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from support.brokers import letters
from support.hosting import Backends, Worker, until
from support.scripted_behaviour import Scripted

from troupe.broker.retry import RetryPolicy
from troupe.chassis.errors import Unavailable
from troupe.dataplane.actors import shard as shards
from troupe.dataplane.actors.behaviour import TurnContext
from troupe.v1 import status_pb2, turn_pb2


def _next_epoch(worker: Worker, than: Worker) -> None:
    worker.owner = replace(worker.owner, epoch=than.owner.epoch + 1)


async def _pass_on(before: Worker, after: Worker) -> None:
    """A graceful handover, as the control plane brings it about."""
    await before.release(after.owner.instance)
    _next_epoch(after, before)
    await after.hold(before.owner.instance)


async def test_what_runs_goes_on_and_what_waits_runs_at_the_new_owner(backends: Backends) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.several(script, 2) as (first, second):
        await first.send("slow", "a", "slow")
        await slow.entered.wait()
        await first.send("behind", "a", "behind")
        await first.send("other", "b", "other")
        await first.end_of("other", "b")
        await _pass_on(first, second)
        # All other sessions go on at once; the one that runs elsewhere waits for it
        assert (await second.ask("more", "b")).fate == turn_pb2.FATE_DONE
        assert "a: behind" not in script.started
        slow.open.set()
        assert (await second.end_of("behind", "a")).fate == turn_pb2.FATE_DONE
        assert await second.state("a") == "slow;behind;"
        assert (await first.end_of("slow", "a")).attempts == 1
    assert script.most_at_once["a"] == 1
    assert script.started.count("a: slow") == 1


async def test_events_of_a_turn_that_goes_on_still_reach_its_listener(backends: Backends) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.several(script, 2) as (first, second), first.conversation("slow", "a") as mine:
        await slow.entered.wait()
        await _pass_on(first, second)
        slow.open.set()
        assert (await mine.end()).completed.result.text == "went through"


async def test_a_turn_that_fails_under_its_mark_is_tried_again_by_the_new_owner(backends: Backends) -> None:
    script = Scripted(retry=RetryPolicy(3, 0.01, 0.04))
    slow = script.gate("slow")

    async def fails(turn: TurnContext) -> str:
        await slow(turn)
        if turn.attempt == 0:
            raise Unavailable("AWAY", "gone")
        return "second try"

    script.does["slow"] = fails
    async with backends.several(script, 2) as (first, second):
        await first.send("slow", "a", "m")
        await slow.entered.wait()
        await _pass_on(first, second)
        slow.open.set()
        status = await second.end_of("m", "a")
        assert (status.result.text, status.attempts) == ("second try", 2)


@pytest.mark.parametrize("road", ["fast", "inbox"])
async def test_twenty_handovers_under_load_lose_nothing_and_repeat_nothing(backends: Backends, road: str) -> None:
    script = Scripted()

    async def works(turn: TurnContext) -> str:
        if "result" not in turn.journal.kept:
            assert "start" not in turn.journal.kept, "a step that must not be done twice was interrupted"
            await turn.journal.keep({"start": b""}, starts=True)
            script.effects[turn.message.id] += 1
            await asyncio.sleep(0.03 if road == "fast" else 0.01)
            await turn.journal.keep({"result": b""}, starts=False)
        return "worked"

    script.does["work"] = works
    async with backends.several(script, 2) as workers:
        sent: dict[str, list[str]] = {f"s{number}": [] for number in range(8 if road == "fast" else 2)}
        stop = asyncio.Event()

        async def load(session: str) -> None:
            while not stop.is_set():
                name = f"work {session}-{len(sent[session])}"
                sent[session].append(name)
                await workers[0].send(name, session, name)
                await asyncio.sleep(0.04 if road == "fast" else 0.005)

        async with asyncio.TaskGroup() as tasks:
            for session in sent:
                tasks.create_task(load(session))
            owner, other = workers
            handovers = 0
            while handovers < 20 or sum(map(len, sent.values())) <= 100:
                await asyncio.sleep(0.05)
                await _pass_on(owner, other)
                owner, other = other, owner
                handovers += 1
            stop.set()
        for session, names in sent.items():
            assert (await owner.end_of(names[-1], session, 30)).fate == turn_pb2.FATE_DONE
            assert await owner.state(session) == "".join(f"{name};" for name in names)
        assert await letters(owner.real_broker) == []
    assert set(script.effects.values()) == {1}
    assert set(script.most_at_once.values()) == {1}
    assert set(Counter(script.started).values()) == {1}


async def test_nothing_comes_again_from_the_broker(backends: Backends) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.several(script, 2) as (first, second):
        for number in range(10):
            await first.send("slow" if number == 0 else "hello", f"s{number % 2}", f"m{number}")
        await slow.entered.wait()
        await first.release(second.owner.instance)
        assert (await first.real_broker.depth("troupe.v1.mailbox.0")).messages == 0
        slow.open.set()


async def test_a_revoke_of_a_shard_that_is_not_held_is_answered_at_once(backends: Backends) -> None:
    async with backends.several(Scripted(), 2) as (_, second):
        await second.host.hold([second.owner], revoked={0})
        assert second.host.statuses() == []


async def test_the_dead_are_not_waited_for_and_their_message_runs_first(backends: Backends) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.several(script, 2) as (first, second):
        await first.send("slow", "a", "slow")
        await slow.entered.wait()
        await first.send("behind", "a", "behind")
        await first.release(second.owner.instance)
        script.does.clear()
        _next_epoch(second, first)
        # When nobody says that its owner lives
        await second.hold()
        assert (await second.end_of("behind", "a")).fate == turn_pb2.FATE_DONE
        assert await second.state("a") == "slow;behind;"
        # Then what the turn before still writes changes nothing
        slow.open.set()
        await until(lambda: not first.host.running)
        assert await second.state("a") == "slow;behind;"


async def test_after_the_timeout_a_message_is_taken_over(backends: Backends) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.several(script, 2, handover_timeout=0.6) as (first, second):
        await first.send("slow", "a", "m")
        await slow.entered.wait()
        first.host._leaving.timeout = None
        await first.release(second.owner.instance)
        script.does.clear()
        _next_epoch(second, first)
        await second.hold(first.owner.instance)
        status = await second.end_of("m", "a")
        assert (status.fate, status.result.text, status.attempts) == (turn_pb2.FATE_DONE, "slow", 2)


async def test_a_shard_that_comes_back_waits_for_the_turn_that_still_runs_here(backends: Backends) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.several(script, 1) as (worker,):
        await worker.send("slow", "a", "slow")
        await slow.entered.wait()
        await worker.send("behind", "a", "behind")
        await worker.release()
        worker.owner = replace(worker.owner, epoch=worker.owner.epoch + 1)
        await worker.hold()
        assert (await worker.ask("hello", "b")).fate == turn_pb2.FATE_DONE
        slow.open.set()
        assert (await worker.end_of("behind", "a")).fate == turn_pb2.FATE_DONE
        assert await worker.state("a") == "slow;behind;"
    assert script.started.count("a: slow") == 1


async def test_what_another_has_by_now_is_closed_though_it_is_still_being_handed_over(backends: Backends) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.several(script, 2) as (first, second):
        await first.send("slow", "a", "m")
        await slow.entered.wait()
        # Given an owner whose store does not answer in the middle of a handover

        async def hang(*_: object) -> None:
            await asyncio.Event().wait()

        first.store_line.before["put"] = hang
        await first.host.hold([first.owner], revoked={0}, live={first.owner.instance})
        script.does.clear()
        # When it hears that another has the shard
        _next_epoch(second, first)
        async with asyncio.timeout(5):
            await first.host.hold([])
            await second.hold()
            # Then what it held unacked is the other's at once
            assert (await second.end_of("m", "a")).fate == turn_pb2.FATE_DONE
        assert await second.state("a") == "slow;"


async def test_a_release_that_cannot_be_written_gives_the_messages_back(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "RELEASE", 0.2)
    script = Scripted()
    slow = script.gate("slow")
    async with backends.several(script, 2) as (first, second):
        await first.send("slow", "a", "m")
        await slow.entered.wait()
        never = asyncio.Event()

        async def hang(*_: object) -> None:
            await never.wait()

        first.store_line.before["put"] = hang
        await first.release(second.owner.instance)
        script.does.clear()
        _next_epoch(second, first)
        await second.hold(first.owner.instance)
        status = await second.end_of("m", "a")
        assert (status.fate, status.result.text) == (turn_pb2.FATE_DONE, "slow")


async def test_while_it_lasts_the_shard_is_said_to_be_releasing(backends: Backends) -> None:
    async with backends.several(Scripted(), 1) as (worker,):
        script: Scripted = worker.behaviour  # type: ignore[assignment]
        slow = script.gate("slow")
        await worker.send("slow", "a")
        await slow.entered.wait()
        writing = asyncio.Event()

        async def hold_up(*_: object) -> None:
            await writing.wait()

        worker.store_line.before["put"] = hold_up
        await worker.host.hold([worker.owner], revoked={0})
        assert [shard.state for shard in worker.host.statuses()] == [status_pb2.SHARD_STATE_RELEASING]
        assert worker.host.owner(0) is None
        writing.set()
        await until(lambda: not worker.host.statuses())
        slow.open.set()


async def test_who_learns_that_another_owns_the_shard_stops_at_once(backends: Backends) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.several(script, 2) as (first, second):
        await first.send("slow", "a", "m")
        await slow.entered.wait()
        await first.host.hold([])
        assert first.host.statuses() == []
        assert slow.left.is_set() or await asyncio.wait_for(slow.left.wait(), 5)
        script.does.clear()
        _next_epoch(second, first)
        await second.hold()
        assert (await second.end_of("m", "a")).result.text == "slow"
        assert (await second.load("a")).inbox == []
