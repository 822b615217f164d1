"""A program is killed while the model reads a tool's result that the store has not got: what the model made of it, and
the result, are gone together."""

import asyncio
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from support.hosting import until
from support.shell import environment

from troupe.chassis.clock import SystemClock
from troupe.dataplane.runtime import Runtime
from troupe.llm_sim.http.application import Routes
from troupe.llm_sim.http.listener import listening
from troupe.llm_sim.settings import LlmSimSettings
from troupe.v1 import turn_pb2

TOOL = '''
"""A tool that says in a file that it acts, and comes to its result when there is a file `go`."""

import asyncio
from pathlib import Path
from troupe.dataplane.tools.tool import tool

HERE = Path(__file__).parent

@tool(idempotent=IDEMPOTENT)
async def take() -> str:
    """Take."""
    with (HERE / "log").open("a") as file:
        file.write("take\\n")
    while not (HERE / "go").exists():
        await asyncio.sleep(0.01)
    return "taken"
'''
FLEET = """
apiVersion: troupe.dev/v1
kind: Tool
metadata: {name: take}
spec: {python: {entryPoint: "taking:take"}}
---
apiVersion: troupe.dev/v1
kind: Model
metadata: {name: default}
spec: {}
---
apiVersion: troupe.dev/v1
kind: Agent
metadata: {name: clerk}
spec: {model: default, tools: [take]}
"""
PROGRAM = """
import asyncio
import sys
from troupe.dataplane.runtime import Runtime

async def main():
    async with Runtime(llm=sys.argv[1], model="sim", data="kept", python_path=["."], shards=4) as runtime:
        await runtime.apply("fleet.yaml")
        await runtime.send("clerk", "one", "use the tool take with {}", message_id="m1")
        await asyncio.sleep(600)

asyncio.run(main())
"""


@asynccontextmanager
async def simulator() -> AsyncIterator[tuple[str, list[str]]]:
    """The simulator's URL, and the paths that it was asked for."""
    settings, stopping, asked = LlmSimSettings(listen="127.0.0.1:0"), asyncio.Event(), list[str]()

    @web.middleware
    async def counting(request: web.Request, handler: Handler) -> web.StreamResponse:
        asked.append(request.path)
        return await handler(request)

    application = Routes(settings, SystemClock(), stopping).application()
    application.middlewares.insert(0, counting)
    async with listening(application, settings, stopping) as bound:
        yield bound.url, asked


@contextmanager
def held(database: Path) -> Iterator[None]:
    """Inside, nobody else writes to the database."""
    with closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as holding:
        holding.execute("BEGIN IMMEDIATE")
        yield


@pytest.mark.parametrize("idempotent", [False, True])
async def test_what_the_model_made_of_a_result_that_a_kill_took_is_gone_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idempotent: bool
) -> None:
    (tmp_path / "taking.py").write_text(TOOL.replace("IDEMPOTENT", str(idempotent)))
    (tmp_path / "fleet.yaml").write_text(FLEET)
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.delitem(sys.modules, "taking", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    log, kept = tmp_path / "log", tmp_path / "kept"
    environ = environment(tmp_path, {"PYTHONPATH": os.environ.get("PYTHONPATH", "")})
    async with simulator() as (url, asked):
        program = await asyncio.create_subprocess_exec(sys.executable, "program.py", url, cwd=tmp_path, env=environ)
        try:
            await until(log.exists, 30)
            with held(kept / "state.db"):
                (tmp_path / "go").touch()
                await until(lambda: len(asked) == 2, 30)
                program.kill()
                await program.wait()
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
        async with Runtime(llm=url, model="sim", data=kept, python_path=[tmp_path], shards=4) as runtime:
            status = await runtime.message("clerk", "one", "m1", wait=20)
    if idempotent:
        assert status.result.text == "The tool take answered: taken."
        assert log.read_text().split() == ["take", "take"]
    else:
        assert (status.fate, status.error.reason) == (turn_pb2.FATE_DEAD, "UNKNOWN_OUTCOME")
        assert log.read_text().split() == ["take"]
