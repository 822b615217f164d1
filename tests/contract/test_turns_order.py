"""Messages of a session run in order, one at a time, once; other sessions do not wait for them."""

import asyncio

import pytest
from support.hosting import Backends, key, until
from support.scripted_behaviour import Scripted

from troupe.broker.port import PREFETCH
from troupe.chassis.errors import AlreadyExists
from troupe.dataplane.actors.patience import PATIENCE
from troupe.dataplane.state.port import TurnCommit
from troupe.dataplane.state.session import Owner
from troupe.v1 import turn_pb2


async def test_a_message_is_answered_and_leaves_nothing_behind(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        status = await worker.ask("hello")

        assert status.fate == turn_pb2.FATE_DONE
        assert status.result.text == "hello"
        assert (status.attempts, status.state_version) == (1, 1)
        assert await worker.end_of(status.message_id) == status or status.HasField("settled_at")
        await until(lambda: worker.host.running == 0)
        assert (await worker.load()).inbox == []
        assert worker.store_line.calls["put"] == worker.store_line.calls["begin"] == 0, "the fast path"
        assert (await worker.real_broker.depth("troupe.v1.mailbox.0")).messages == 0
        assert not worker.hub.listening(key(), status.message_id)


async def test_many_messages_to_one_session_run_in_order_and_one_at_a_time(backends: Backends) -> None:
    script = Scripted()
    async with backends.worker(script) as worker:
        ids = [await worker.send(f"m{number}") for number in range(200)]
        for message_id in ids:
            assert (await worker.end_of(message_id)).fate == turn_pb2.FATE_DONE

        assert await worker.state() == "".join(f"m{number};" for number in range(200))
        assert script.started == [f"s: m{number}" for number in range(200)]
        assert script.most_at_once["s"] == 1


async def test_a_second_turn_starts_on_the_fast_path_too(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        await worker.ask("one")
        await worker.ask("two")
        assert await worker.state() == "one;two;"
        assert worker.store_line.calls["put"] == 0


async def test_other_sessions_go_on_while_one_is_busy(backends: Backends) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.worker(script) as worker:
        first = await worker.send("slow", "busy")
        behind = [await worker.send(f"behind-{number}", "busy") for number in range(100)]
        for number in range(20):
            assert (await worker.ask("hello", f"free-{number}")).fate == turn_pb2.FATE_DONE

        assert (await worker.end_of(first, "busy", wait=0)).fate == turn_pb2.FATE_RUNNING
        assert (await worker.end_of(behind[0], "busy", wait=0)).fate == turn_pb2.FATE_WAITING
        # What waits is written to the inbox and acked: only the running one stays the broker's.
        await until(lambda: len(worker.actor("busy").arrivals()) == 0)
        assert (await worker.real_broker.depth("troupe.v1.mailbox.0")).messages == 1
        slow.open.set()
        assert (await worker.end_of(behind[-1], "busy")).fate == turn_pb2.FATE_DONE
        assert await worker.state("busy") == "slow;" + "".join(f"behind-{number};" for number in range(100))


async def test_what_waits_is_acked_soon(backends: Backends) -> None:
    script = Scripted()
    script.gate("slow")
    async with backends.worker(script, drain_timeout=0) as worker:
        await worker.send("slow")
        began = asyncio.get_running_loop().time()
        await worker.send("next")
        async with asyncio.timeout(10):
            while (await worker.real_broker.depth("troupe.v1.mailbox.0")).messages > 1:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        assert asyncio.get_running_loop().time() - began >= 0.9 * PATIENCE[0]


async def test_while_commits_take_long_what_waits_for_one_is_not_written_to_the_inbox(backends: Backends) -> None:
    async with backends.worker(Scripted()) as worker:
        worker.commits_took(10.0)
        worker.store_line.before["commit"] = lambda *_: asyncio.sleep(0.2)
        sent = [await worker.send(f"hello-{number}") for number in range(3)]
        for message_id in sent:
            assert (await worker.end_of(message_id)).fate == turn_pb2.FATE_DONE
        assert worker.store_line.calls["put"] == 0


async def test_while_commits_take_long_what_waits_for_code_is_acked_as_soon_as_ever(backends: Backends) -> None:
    script = Scripted()
    slow = script.gate("slow")
    async with backends.worker(script, drain_timeout=0) as worker:
        worker.commits_took(10.0)
        await worker.send("slow")
        await slow.entered.wait()
        await worker.send("next")
        async with asyncio.timeout(0.8 * PATIENCE[1]):
            while (await worker.real_broker.depth("troupe.v1.mailbox.0")).messages > 1:  # noqa: ASYNC110
                await asyncio.sleep(0.002)


async def test_a_session_whose_commits_take_long_leaves_the_places_of_its_shard_to_others(backends: Backends) -> None:
    script = Scripted()
    async with backends.worker(script) as worker:
        worker.commits_took(10.0)
        committed = asyncio.Event()

        async def slow(_: Owner, commit: TurnCommit) -> None:
            if commit.key == key("busy"):
                await committed.wait()

        worker.store_line.before["commit"] = slow
        for number in range(3 * PREFETCH):
            await worker.send(f"m{number}", "busy")
        async with asyncio.timeout(0.8 * PATIENCE[1]):
            assert (await worker.ask("hello", "free")).fate == turn_pb2.FATE_DONE
        assert script.started == ["busy: m0", "free: hello"]
        committed.set()
        await worker.ask("last", "busy")
        assert await worker.state("busy") == "".join(f"m{number};" for number in range(3 * PREFETCH)) + "last;"


async def test_while_commits_take_long_what_waits_behind_a_promise_is_acked_as_soon_as_ever(backends: Backends) -> None:
    script = Scripted()
    script.does["ask"] = script.ask_outside
    async with backends.worker(script) as worker:
        await worker.send("ask", message_id="m")
        await worker.at_rest()
        worker.commits_took(10.0)
        await worker.send("behind")
        async with asyncio.timeout(0.8 * PATIENCE[1]):
            await until(lambda: worker.store_line.calls["put"])


class TestTheSameIdAgain:
    async def test_while_it_runs_it_joins(self, backends: Backends) -> None:
        script = Scripted()
        slow = script.gate("slow")
        async with backends.worker(script) as worker, worker.conversation("slow", message_id="m") as first:
            await slow.entered.wait()
            async with worker.conversation("slow", message_id="m") as second:
                await until(lambda: "accepted" in second.kinds)
                slow.open.set()
                assert (await first.end()).completed.result.text == "went through"
                assert (await second.end()).completed.result.text == "went through"
        assert script.started == ["s: slow"]

    async def test_while_it_waits_it_runs_once(self, backends: Backends) -> None:
        script = Scripted()
        slow = script.gate("slow")
        async with backends.worker(script) as worker:
            await worker.send("slow")
            await worker.send("next", message_id="m")
            await until(lambda: worker.store_line.calls["put"] >= 1)
            again = asyncio.create_task(worker.ask("next", message_id="m"))
            await until(lambda: worker.store_line.calls["put"] >= 2)
            slow.open.set()
            assert (await again).result.text == "next"
            last = await worker.ask("last")
            assert last.fate == turn_pb2.FATE_DONE
            assert await worker.state() == "slow;next;last;"

    async def test_once_settled_it_gets_the_stored_answer(self, backends: Backends) -> None:
        script = Scripted()
        async with backends.worker(script) as worker:
            first = await worker.ask("hello", message_id="m")
            async with worker.conversation("hello", message_id="m") as again:
                end = await again.end()
            second = await worker.ask("hello", message_id="m")

        assert end.completed.stored
        assert end.completed.result.text == "hello"
        assert (second.result, second.attempts) == (first.result, 1)
        assert script.started == ["s: hello"]

    @pytest.mark.parametrize("when", ["running", "waiting", "settled"])
    async def test_with_another_payload_only_that_sender_hears_it(self, backends: Backends, when: str) -> None:
        script = Scripted()
        slow = script.gate("slow")
        async with backends.worker(script) as worker:
            if when != "running":
                await worker.send("slow")
            async with worker.conversation("slow" if when == "running" else "mine", message_id="m") as mine:
                if when == "waiting":
                    await until(lambda: worker.store_line.calls["put"] >= 1)
                elif when == "settled":
                    slow.open.set()
                    await mine.end()
                else:
                    await slow.entered.wait()
                with pytest.raises(AlreadyExists) as refused:
                    await worker.ask("other", message_id="m")
                slow.open.set()
                assert (await mine.end()).HasField("completed")
            assert refused.value.reason == "MESSAGE_ID_USED"
            assert refused.value.metadata["source"] == "turn"
            assert not any("other" in text for text in script.started)
            assert (await worker.ask("after")).fate == turn_pb2.FATE_DONE

    async def test_a_copy_of_a_running_message_never_takes_its_place(self, backends: Backends) -> None:
        """Its payload would run instead, should the worker die before the first one ends."""
        script = Scripted()
        script.gate("first")
        async with backends.worker(script) as worker:
            await worker.send("first", message_id="m")
            await until(lambda: script.started)
            await worker.send("other", message_id="m")
            await until(lambda: worker.store_line.calls["put"] >= 1)
            await worker.kill()
        script.does.clear()
        async with backends.worker(script) as worker:
            assert (await worker.end_of("m")).result.text == "first"
            assert (await worker.ask("after")).fate == turn_pb2.FATE_DONE
            assert await worker.state() == "first;after;"
