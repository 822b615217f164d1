"""A program with a runtime is killed; the next one on its files goes on: calls are not made twice, promises stand."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.shell import environment

from troupe.dataplane.runtime import Runtime
from troupe.v1 import agent_pb2, turn_pb2
from troupe.v1.promise_pb2 import Promise

ACTOR = '''
"""An actor whose tools say in a file what they do."""

import asyncio
import os
from pathlib import Path
from troupe.dataplane.tools.tool import tool

LOG = Path(__file__).parent / "log"

def say(line):
    with LOG.open("a") as file:
        file.write(line + "\\n")

async def hang_if_asked(what):
    if what in os.environ.get("HANGS", ""):
        await asyncio.sleep(600)

@tool(compensation="untake")
async def take() -> str:
    """Take."""
    say("take")
    await hang_if_asked("take")
    return "taken"

@tool
async def untake(arguments: dict[str, str], result: str) -> str:
    """Take back."""
    say(f"untake {result}")
    return "untaken"

@tool(idempotent=True)
async def look() -> str:
    """Look."""
    say("look")
    await hang_if_asked("look")
    return "looked"

class Keeper:
    async def receive(self, context, message):
        taken = await context.call_tool("take")
        looked = await context.call_tool("look")
        word = await (await context.promise("word", str))
        context.reply(f"{taken}, {looked}, {word}")
'''
FLEET = """
apiVersion: troupe.dev/v1
kind: Tool
metadata: {name: take}
spec: {python: {entryPoint: "keeper:take"}}
---
apiVersion: troupe.dev/v1
kind: Tool
metadata: {name: untake}
spec: {python: {entryPoint: "keeper:untake"}}
---
apiVersion: troupe.dev/v1
kind: Tool
metadata: {name: look}
spec: {python: {entryPoint: "keeper:look"}}
---
apiVersion: troupe.dev/v1
kind: Actor
metadata: {name: keeper}
spec:
  entryPoint: keeper:Keeper
  tools: [take, look]
  unknownOutcome: UNKNOWN_OUTCOME_POLICY_PROMISE
"""
PROGRAM = """
import asyncio
from troupe.dataplane.runtime import Runtime

async def main():
    async with Runtime(data="kept", python_path=["."], shards=4) as runtime:
        await runtime.apply("fleet.yaml")
        await runtime.send("keeper", "one", "go", message_id="m1")
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "keeper.py").write_text(ACTOR)
    (tmp_path / "fleet.yaml").write_text(FLEET)
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.delitem(sys.modules, "keeper", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def log(directory: Path) -> list[str]:
    file = directory / "log"
    return file.read_text().splitlines() if file.exists() else []


async def killed(directory: Path, hangs: str, lines: int) -> None:
    """Run the program until its tools have said so much, and kill it."""
    environ = environment(directory, {"HANGS": hangs, "PYTHONPATH": os.environ.get("PYTHONPATH", "")})
    program = await asyncio.create_subprocess_exec(sys.executable, "program.py", cwd=directory, env=environ)
    try:
        async with asyncio.timeout(30):
            while len(log(directory)) < lines:
                assert program.returncode is None
                await asyncio.sleep(0.01)
        if not hangs:
            await asyncio.sleep(0.3)  # the turn comes to its promise; where it has not, the outcome is the same
    finally:
        program.kill()
        await program.wait()


@asynccontextmanager
async def next_one(directory: Path) -> AsyncIterator[Runtime]:
    async with Runtime(data=directory / "kept", python_path=[directory], shards=4) as runtime:
        yield runtime


async def asked(runtime: Runtime, name: str) -> Promise:
    async with asyncio.timeout(20):
        while True:
            for promise in await runtime.promises("keeper", "one"):
                if promise.name.startswith(name):
                    return promise
            await asyncio.sleep(0.02)


async def test_a_turn_that_waits_outlives_its_process_and_its_calls_are_not_made_again(directory: Path) -> None:
    await killed(directory, hangs="", lines=2)
    async with next_one(directory) as runtime:
        await runtime.resolve(await asked(runtime, "word"), "yes")
        status = await runtime.message("keeper", "one", "m1", wait=20)
    assert status.result.text == "taken, looked, yes"
    assert log(directory) == ["take", "look"]


async def test_an_idempotent_call_that_was_cut_off_is_made_again(directory: Path) -> None:
    await killed(directory, hangs="look", lines=2)
    async with next_one(directory) as runtime:
        await runtime.resolve(await asked(runtime, "word"), "yes")
        status = await runtime.message("keeper", "one", "m1", wait=20)
    assert status.result.text == "taken, looked, yes"
    assert log(directory) == ["take", "look", "look"]


async def test_a_person_says_what_a_call_came_to_that_was_cut_off_and_it_is_not_made_again(directory: Path) -> None:
    await killed(directory, hangs="take", lines=1)
    async with next_one(directory) as runtime:
        await runtime.resolve(await asked(runtime, "unknown-outcome/take/"), "it was taken")
        await runtime.resolve(await asked(runtime, "word"), "yes")
        status = await runtime.message("keeper", "one", "m1", wait=20)
    assert status.result.text == "it was taken, looked, yes"
    assert log(directory) == ["take", "look"]


async def test_a_cancel_after_the_crash_takes_back_what_was_done_before_it(directory: Path) -> None:
    await killed(directory, hangs="", lines=2)
    async with next_one(directory) as runtime:
        await asked(runtime, "word")
        await runtime.control(agent_pb2.VERB_CANCEL, "keeper", "one", "m1")
        status = await runtime.message("keeper", "one", "m1", wait=20)
    assert status.fate == turn_pb2.FATE_CANCELLED
    assert log(directory) == ["take", "look", "untake taken"]
