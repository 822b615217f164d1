"""The data plane inside a program: what a user of `Runtime` sees."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support import ports
from support.hosting import until
from support.shell import troupe
from support.terminals import up

from troupe.chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from troupe.dataplane.runtime import Runtime
from troupe.dataplane.tools.tool import tool
from troupe.v1 import agent_pb2, promise_pb2, turn_pb2
from troupe.v1.promise_pb2 import Promise

EXAMPLES = Path(__file__).parents[2] / "examples"
COUNTER, APPROVAL = EXAMPLES / "counter", EXAMPLES / "approval"


@asynccontextmanager
async def counting(**options: Any) -> AsyncIterator[Runtime]:
    async with Runtime(python_path=[COUNTER], shards=8, **options) as runtime:
        await runtime.apply(COUNTER)
        yield runtime


@asynccontextmanager
async def buying(directory: Path, monkeypatch: pytest.MonkeyPatch, patience: float = 60.0) -> AsyncIterator[Runtime]:
    """A runtime with the example's desk, which writes its log into `directory`."""
    monkeypatch.chdir(directory)
    monkeypatch.setenv("DESK_PATIENCE", str(patience))
    monkeypatch.delitem(sys.modules, "desk", raising=False)
    async with Runtime(python_path=[APPROVAL], shards=8) as runtime:
        await runtime.apply(APPROVAL)
        yield runtime


def log() -> list[str]:
    file = Path("desk.log")
    return file.read_text().splitlines() if file.exists() else []


async def asked(runtime: Runtime, session: str) -> Promise:
    """The promise that the session waits for."""
    async with asyncio.timeout(10):
        while not (found := await runtime.promises("desk", session)):  # noqa: ASYNC110 - it is inside the code under test
            await asyncio.sleep(0.01)
    return found[0]


async def test_messages_are_answered_and_shown_as_they_are_by_a_fleet() -> None:
    async with counting() as runtime:
        status = await runtime.send("counter", "one", "5", wait=10, message_id="m1")
        assert (status.fate, status.result.text) == (turn_pb2.FATE_DONE, "5")
        again = await runtime.send("default/counter", "one", "5", wait=10, message_id="m1")
        assert again.result.text == "5", "the same message again has no second effect"
        kinds = [event.WhichOneof("kind") async for event in runtime.converse("counter", "one", "1")]
        assert kinds == ["accepted", "started", "completed"]
        assert (await runtime.message("counter", "one", "m1")).result.text == "5"
        assert (await runtime.session("counter", "one")).session.turns == 2
        assert await runtime.delete("counter", "one") == 0
        with pytest.raises(NotFound):
            await runtime.session("counter", "one")


async def test_messages_that_wait_are_taken_in_one_turn_and_a_bad_one_takes_no_other_with_it() -> None:
    async with counting() as runtime:
        texts = ["1", "2", "x", *map(str, range(3, 41))]
        sent = [await runtime.send("counter", "many", text, message_id=f"m{text}") for text in texts]
        fates = [await runtime.message("counter", "many", status.message_id, wait=30) for status in sent]
        assert [status.fate for status in fates if status.message_id != "mx"] == [turn_pb2.FATE_DONE] * 40
        assert fates[2].fate == turn_pb2.FATE_DEAD
        assert fates[-1].result.text == str(sum(range(1, 41)))
        told = (await runtime.send("counter", "many", "?", wait=10)).result.text.split()
        assert told[:3] == ["820", "from", "40"]
        assert int(told[5]) < 40, "they came in fewer turns than messages"


async def test_a_purchase_that_waits_is_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with buying(tmp_path, monkeypatch) as runtime:
        await runtime.send("desk", "one", "a lamp", message_id="m1")
        await asked(runtime, "one")
        restarted = await runtime.restart("desk", "one", "m1", 0)
        assert restarted.answer == agent_pb2.VERB_ANSWER_APPLIED
        assert (await runtime.message("desk", "one", "m1")).restarted_as == restarted.restarted_as
        assert (await asked(runtime, "one")).promise_id.startswith(restarted.restarted_as)


async def test_a_purchase_waits_for_its_approval_and_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with buying(tmp_path, monkeypatch) as runtime:
        await runtime.send("desk", "one", "a lamp", message_id="m1")
        promise = await asked(runtime, "one")
        assert (promise.name, *promise.approvers) == ("approval-1", "ann")
        with pytest.raises(InvalidArgument, match="yes"):
            await runtime.resolve(promise, {"why": "cheap"})
        assert (await runtime.message("desk", "one", "m1")).fate == turn_pb2.FATE_WAITING
        assert await runtime.resolve(promise, {"yes": True}) == promise_pb2.SETTLEMENT_ANSWER_APPLIED
        assert (await runtime.message("desk", "one", "m1", wait=10)).result.text == "bought a lamp"
        assert log() == ["reserved a lamp", "bought a lamp, booking of a lamp"]
        assert await runtime.resolve(promise, {"yes": False}) == promise_pb2.SETTLEMENT_ANSWER_DUPLICATE


@pytest.mark.parametrize("rejected", [True, False])
async def test_a_purchase_that_is_refused_takes_its_reservation_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rejected: bool
) -> None:
    async with buying(tmp_path, monkeypatch) as runtime:
        await runtime.send("desk", "one", "a lamp", message_id="m1")
        promise = await asked(runtime, "one")
        if rejected:
            await runtime.reject(promise, "too dear")
        else:
            await runtime.resolve(promise, {"yes": False, "why": "too dear"})
        assert (await runtime.message("desk", "one", "m1", wait=10)).result.text == "not bought: too dear"
        assert log() == ["reserved a lamp", "released a lamp, booking of a lamp"]


@pytest.mark.parametrize("verb", [agent_pb2.VERB_CANCEL, agent_pb2.VERB_KILL])
async def test_a_cancelled_purchase_is_compensated_and_a_killed_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: agent_pb2.Verb.ValueType
) -> None:
    async with buying(tmp_path, monkeypatch) as runtime:
        await runtime.send("desk", "one", "a lamp", message_id="m1")
        promise = await asked(runtime, "one")
        assert await runtime.control(verb, "desk", "one", "m1") == agent_pb2.VERB_ANSWER_APPLIED
        assert (await runtime.message("desk", "one", "m1", wait=10)).fate == turn_pb2.FATE_CANCELLED
        taken_back = ["released a lamp, booking of a lamp"] if verb == agent_pb2.VERB_CANCEL else []
        assert log() == ["reserved a lamp", *taken_back]
        assert await runtime.resolve(promise, {"yes": True}) == promise_pb2.SETTLEMENT_ANSWER_WITHDRAWN


async def test_nobody_answers_so_the_desk_reminds_itself_and_asks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with buying(tmp_path, monkeypatch, patience=0.3) as runtime:
        status = await runtime.send("desk", "one", "a lamp", wait=20)
        assert status.result.text.startswith("nobody has answered yet")
        again = await asked(runtime, "one")
        assert (again.name, again.message_id.startswith("reminder/ask-again/")) == ("approval-2", True)
        await until(lambda: len(log()) == 2, timeout=20)
        assert log() == ["reserved a lamp", "released a lamp, booking of a lamp"], "after three questions it gives up"


async def test_a_message_comes_when_it_is_due() -> None:
    async with counting() as runtime:
        began = time.time()
        status = await runtime.send("counter", "one", "7", after=0.5, message_id="later")
        assert (await runtime.send("counter", "one", "1", wait=10)).result.text == "1"
        assert (await runtime.message("counter", "one", status.message_id, wait=10)).result.text == "8"
        assert time.time() - began >= 0.5


@tool
async def double_it(number: int) -> int:
    """Twice the number."""
    return 2 * number


class Doubling:
    """Answers with what the tool says."""

    async def receive(self, context: Any, message: Any) -> None:
        context.reply(str(await context.call_tool("double-it", number=int(message.text))))


MAILED = list[str]()


@tool
async def mail(body: str) -> str:
    """Send a mail."""
    MAILED.append(body)
    return "sent"


class Many:
    """Asks twelve people, by mail, for a number each."""

    async def receive(self, context: Any, message: Any) -> None:
        asked = [await context.promise(f"number-{one}", int) for one in range(12)]
        for promise in asked:
            await context.call_tool("mail", {"body": promise.token}, key=promise.name)
        context.reply(str(sum(await asyncio.gather(*asked))))


MANY = """
apiVersion: troupe.dev/v1
kind: Actor
metadata: {name: many}
spec: {entryPoint: "%s:Many", tools: [mail]}
"""


async def test_everybody_who_was_asked_by_mail_can_answer_whatever_came_before(tmp_path: Path) -> None:
    (tmp_path / "many.yaml").write_text(MANY % __name__)
    MAILED.clear()
    async with Runtime(tools=[mail], shards=4, data=tmp_path / "kept") as runtime:
        await runtime.apply(tmp_path / "many.yaml")
        await runtime.send("many", "s", "ask", message_id="m1")
        await until(lambda: len(MAILED) == 12)
        for number, token in enumerate(list(MAILED)):
            assert await runtime.resolve(token, number) == promise_pb2.SETTLEMENT_ANSWER_APPLIED
            await asyncio.sleep(0.02)
        assert (await runtime.message("many", "s", "m1", wait=20)).result.text == "66"
    assert len(MAILED) == 12


DOUBLING = """
apiVersion: troupe.dev/v1
kind: Actor
metadata: {name: doubling}
spec: {entryPoint: "%s:Doubling", tools: [double-it]}
"""


async def test_tools_are_given_as_they_are_and_what_they_are_not_is_refused(tmp_path: Path) -> None:
    (tmp_path / "doubling.yaml").write_text(DOUBLING % __name__)
    async with Runtime(tools=[double_it], shards=8) as runtime:
        await runtime.apply(tmp_path)
        assert (await runtime.send("doubling", "s", "21", wait=10)).result.text == "42"
        with pytest.raises(InvalidArgument, match="there is no Tool"):
            await runtime.remove("Tool", "double-it")
        assert (await runtime.send("doubling", "s", "4", wait=10)).result.text == "8", "what ran goes on"

    @tool
    async def local() -> str:
        """Somewhere inside."""
        return ""

    with pytest.raises(InvalidArgument, match="entry point"):
        async with Runtime(tools=[local]):
            pass


async def test_an_error_in_the_block_leaves_as_it_is() -> None:
    with pytest.raises(LookupError, match="mine"):
        async with counting():
            raise LookupError("mine")
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(asyncio.CancelledError):
        async with counting():
            task.cancel()
            await asyncio.sleep(0)
    task.uncancel()


async def test_a_failure_in_the_background_ends_the_block_and_is_told() -> None:
    with pytest.raises(MemoryError, match="no more"):
        async with Runtime(python_path=[COUNTER], shards=8) as runtime:
            runtime._plane.applier._tasks.create_task(_fail())
            await asyncio.sleep(10)


async def _fail() -> None:
    raise MemoryError("no more")


async def test_a_revision_that_cannot_run_is_refused_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(DOUBLING.replace("tools: [double-it]", "") % "nowhere")
    async with counting() as runtime:
        with pytest.raises(Exception, match="Actor/default/doubling: cannot import nowhere"):
            await runtime.apply(tmp_path)
        assert (await runtime.send("counter", "one", "1", wait=10)).result.text == "1"


async def test_what_lies_in_files_outlives_the_runtime_and_runs_again_by_itself(tmp_path: Path) -> None:
    async with counting(data=tmp_path) as runtime:
        assert (await runtime.send("counter", "one", "5", wait=10)).result.text == "5"
        with pytest.raises(FailedPrecondition, match="in use"):
            async with Runtime(data=tmp_path, shards=8):
                pass
    for total in ("6", "7"):
        async with Runtime(data=tmp_path, shards=8, python_path=[COUNTER]) as runtime:
            assert (await runtime.send("counter", "one", "1", wait=10)).result.text == total


async def test_a_fleet_takes_over_what_a_runtime_left_and_the_other_way_round(tmp_path: Path) -> None:
    data = tmp_path / ".local/share/troupe"
    async with Runtime(python_path=[COUNTER], data=data) as runtime:
        await runtime.apply(COUNTER)
        assert (await runtime.send("counter", "one", "5", wait=10)).result.text == "5"
    with up(tmp_path, str(COUNTER)):
        sent = await asyncio.to_thread(troupe, tmp_path, "send", "counter/one", "6", "--wait")
        assert "11" in sent.stdout.splitlines(), sent.stderr
    async with Runtime(python_path=[COUNTER], data=data) as runtime:
        assert (await runtime.send("counter", "one", "1", wait=10)).result.text == "12"


async def test_others_are_served_where_an_address_is_given(tmp_path: Path) -> None:
    (port,) = ports.free()
    async with counting(listen=f"127.0.0.1:{port}"):
        sent = await asyncio.to_thread(
            troupe, tmp_path, "send", "counter/one", "5", "--wait", "--gateway", f"127.0.0.1:{port}"
        )
    assert sent.returncode == 0, sent.stderr
    assert "5" in sent.stdout.splitlines()


def test_ctrl_c_stops_a_program_with_a_runtime_in_good_order(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import asyncio\n"
        "from troupe.dataplane.runtime import Runtime\n\n"
        "async def main():\n"
        f"    async with Runtime(python_path=[{str(COUNTER)!r}]) as runtime:\n"
        f"        await runtime.apply({str(COUNTER)!r})\n"
        "        await runtime.send('counter', 'one', '1', wait=10)\n"
        "        print('ready', flush=True)\n"
        "        try:\n"
        "            await asyncio.sleep(60)\n"
        "        finally:\n"
        "            print((await runtime.send('counter', 'one', '2', wait=10)).result.text, flush=True)\n\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "ready\n"
            running.send_signal(signal.SIGINT)
            out, err = running.communicate(timeout=20)
        finally:
            running.kill()
    assert out == "3\n"
    assert err.splitlines()[-1] == "KeyboardInterrupt", err
    assert "Error" not in err.replace("asyncio.exceptions.CancelledError", "")
