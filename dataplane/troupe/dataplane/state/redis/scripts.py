"""The scripts that Redis runs: `lua/NAME.lua`, behind the parts that its first line names and what all share."""

import hashlib
from dataclasses import dataclass
from importlib import resources

from troupe.v1.agent_pb2 import VerbAnswer
from troupe.v1.turn_pb2 import Fate

WITH = "-- with:"
"""What the line of a script begins with that names the parts it needs."""


@dataclass(frozen=True, slots=True)
class Script:
    """One script, as Redis is told it, and the name that it knows it by afterwards."""

    name: str
    body: bytes
    digest: bytes
    """SHA-1 of the body, in hexadecimal."""


def _read(name: str) -> str:
    return resources.files(__package__).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


def _script(name: str) -> Script:
    own = _read(name)
    first = own.partition("\n")[0]
    parts = first.removeprefix(WITH).split() if first.startswith(WITH) else []
    body = "\n".join([_CONSTANTS, *map(_read, ["keys", *parts]), own]).encode()
    return Script(name, body, hashlib.sha1(body, usedforsecurity=False).hexdigest().encode())


_CONSTANTS = "\n".join(f"local {name} = {value}" for name, value in [*Fate.items(), *VerbAnswer.items()])

CLAIM, LOAD, PUT, BEGIN = _script("claim"), _script("load"), _script("put"), _script("begin")
TAKE_OVER, JOURNAL, RETRY, COMMIT = _script("take_over"), _script("journal"), _script("retry"), _script("commit")
PASS_OVER, STRIKE, BACKLOG = _script("pass_over"), _script("strike"), _script("backlog")
REDRIVE, PURGE = _script("redrive"), _script("purge")
RECORD, WAITING, CANCEL = _script("record_of"), _script("waiting_of"), _script("cancel")
SUMMARIES, DELETE, FORGET, IDLE = _script("summaries"), _script("delete"), _script("forget"), _script("idle")
DECLARE = _script("declare")

SCRIPTS = (
    CLAIM, LOAD, PUT, BEGIN, TAKE_OVER, JOURNAL, RETRY, COMMIT, PASS_OVER, STRIKE, BACKLOG, REDRIVE, PURGE, RECORD,
    WAITING, CANCEL, SUMMARIES, DELETE, FORGET, IDLE, DECLARE,
)  # fmt: skip
