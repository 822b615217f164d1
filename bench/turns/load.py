"""Load from native clients, so that the client is not what is measured: ghz for gRPC, wrk for HTTP.

Both keep as many requests under way as there are actors, each to the next one. What is not answered well ends the
benchmark: a server that refuses is fast.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from bench.contender import PEERS, ROOT, ContenderFailed
from troupe.v1 import agent_pb2

GHZ = PEERS / "ghz"
"""A Go module that pins ghz; its program is built into `bin`."""
CONNECTIONS = 4
"""Of ghz to one worker: one connection is one stream of frames, and would be the bound."""
ANSWER = 30.0
"""Seconds that a request may take."""
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True, slots=True)
class Load:
    """What a client measured."""

    rate: float
    """Answers per second."""
    median: float
    """Milliseconds until half of them had come."""


async def calls(gateways: Sequence[str], actor: str, actors: int, seconds: float) -> Load:
    """`AgentService/Send` with `wait`: so many actors, as many calls at once, shared out over the gateways."""
    shares = [range(first, actors, len(gateways)) for first in range(len(gateways))]
    work = [_ghz(gateway, actor, share, seconds) for gateway, share in zip(gateways, shares, strict=True)]
    loads = await asyncio.gather(*work)
    rate = sum(load.rate for load in loads)
    return Load(rate, sum(load.median * load.rate for load in loads) / rate)


async def posts(url: str, actors: int, seconds: float) -> Load:
    """POST to `url`, in which %d stands for the actor."""
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "request.lua"
        script.write_text(_REQUEST % {"path": url, "actors": actors})
        server = url.split("/")[2]
        said = await _run(
            *("wrk", _wrk(), "-t1", f"-c{actors}", f"-d{seconds:.0f}s", "--latency", "--timeout", "10s", "-s", script),
            f"http://{server}",
        )
    rate, median = re.search(r"Requests/sec:\s+([\d.]+)", said), re.search(r"50%\s+([\d.]+)(us|ms|s)\b", said)
    if rate is None or median is None or "Non-2xx" in said or "Socket errors" in said:
        raise ContenderFailed(f"wrk: not every request was answered:\n{said}")
    return Load(float(rate[1]), float(median[1]) * _UNITS[median[2]])


_REQUEST = """\
local path = "%(path)s"
local sent = 0
request = function()
  sent = sent + 1
  local headers = {["content-type"] = "application/json"}
  return wrk.format("POST", string.format(path, sent %% %(actors)d), headers, '"one more"')
end
"""


async def _ghz(gateway: str, actor: str, actors: Sequence[int], seconds: float) -> Load:
    requests = [
        {
            "session": {"agent": actor, "session": f"s{number}"},
            "content": {"text": "one more"},
            "wait": f"{ANSWER:.0f}s",
        }
        for number in actors
    ]
    with tempfile.TemporaryDirectory() as directory:
        data, contract = Path(directory) / "requests.json", Path(directory) / "agent.protoset"
        data.write_text(json.dumps(requests))
        contract.write_bytes(_contract())
        said = await _run(
            *("ghz", _ghz_program(), "--insecure", "--protoset", contract),
            *("--call", "troupe.v1.AgentService/Send", "--data-file", data),
            *("--concurrency", len(actors), "--connections", min(CONNECTIONS, len(actors))),
            *("--duration", f"{seconds:.0f}s", "--duration-stop", "wait", "--timeout", f"{ANSWER + 10:.0f}s"),
            *("--format", "json", gateway),
        )
    report = json.loads(said)
    if set(report["statusCodeDistribution"]) != {"OK"}:
        raise ContenderFailed(f"ghz: not every call was answered: {report['statusCodeDistribution']}")
    median = next(row["latency"] for row in report["latencyDistribution"] if row["percentage"] == 50)
    return Load(report["rps"], median / 1e6)


def _contract() -> bytes:
    """The service with all that it refers to, for who cannot read the source of its contract."""
    files: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        for dependency in file.dependencies:
            add(dependency)
        files[file.name] = file

    add(agent_pb2.DESCRIPTOR)
    found = FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(found.file.add())
    return found.SerializeToString()


async def _run(name: str, *command: object) -> str:
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        said, complained = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    if process.returncode != 0:
        raise ContenderFailed(f"{name} failed (exit status {process.returncode}): {complained.decode()[-2000:]}")
    return said.decode()


@cache
def _ghz_program() -> Path:
    program = GHZ / "bin" / "ghz"
    if not program.exists():
        _made("ghz", ["go", "install", "github.com/bojand/ghz/cmd/ghz"], GHZ, {"GOBIN": str(program.parent)})
    return program


@cache
def _wrk() -> str:
    if shutil.which("wrk") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        _made("wrk", ["apt-get", "install", "-y", "-q", "wrk"], ROOT, {"DEBIAN_FRONTEND": "noninteractive"})
    found = shutil.which("wrk")
    if found is None:
        raise ContenderFailed("wrk is not installed: install the package wrk (Debian, Ubuntu)")
    return found


def _made(name: str, command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> None:
    try:
        subprocess.run(
            command, cwd=directory, env={**os.environ, **environment}, check=True, capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise ContenderFailed(f"{name} cannot be made: {command[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        raise ContenderFailed(f"{name} cannot be made:\n{error.stderr[-2000:]}") from error
