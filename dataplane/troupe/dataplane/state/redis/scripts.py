"""The scripts that Redis runs: `lua/NAME.lua`, behind what all share, each with the parts that it names, where it does.

A part is made of functions, and making a function costs Redis a quarter of a microsecond in each call: so most scripts
come to their end, in most calls, before they name the parts that only others need.
"""

import hashlib
from dataclasses import dataclass
from importlib import resources

from troupe.v1.agent_pb2 import Verb, VerbAnswer
from troupe.v1.promise_pb2 import PromiseState, SettlementAnswer
from troupe.v1.turn_pb2 import Fate

WITH = "-- with:"
"""What a line of a script begins with that names parts, in whose place they stand."""


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
    lines = _read(name).splitlines()
    own = [
        part
        for line in lines
        for part in (map(_read, line.removeprefix(WITH).split()) if line.startswith(WITH) else [line])
    ]
    body = "\n".join([_CONSTANTS, _read("keys"), *own]).encode()
    return Script(name, body, hashlib.sha1(body, usedforsecurity=False).hexdigest().encode())


_CONSTANTS = "\n".join(
    f"local {name} = {value}"
    for enum in (Fate, Verb, VerbAnswer, PromiseState, SettlementAnswer)
    for name, value in enum.items()
)

CLAIM, DUE, LOAD, PUT, BEGIN = map(_script, ("claim", "due", "load", "put", "begin"))
TAKE_OVER, JOURNAL, SUSPEND, RETRY = map(_script, ("take_over", "journal", "suspend", "retry"))
COMMIT, PASS_OVER, STRIKE, BACKLOG = map(_script, ("commit", "pass_over", "strike", "backlog"))
REDRIVE, PURGE, RECORD, WAITING = map(_script, ("redrive", "purge", "record_of", "waiting_of"))
CONTROL, RESTING, VERBS = map(_script, ("control", "resting", "verbs_of"))
SETTLE_PROMISE, PROMISE, PROMISES = map(_script, ("settle_promise", "promise_of", "promises"))
MESSAGES, HISTORY, SUMMARIES, DELETE = map(_script, ("messages", "history", "summaries", "delete"))
FORGET, IDLE, DECLARE = map(_script, ("forget", "idle", "declare"))

SCRIPTS = (
    CLAIM, DUE, LOAD, PUT, BEGIN, TAKE_OVER, JOURNAL, SUSPEND, RETRY, COMMIT, PASS_OVER, STRIKE, BACKLOG, REDRIVE,
    PURGE, RECORD, WAITING, CONTROL, RESTING, VERBS, SETTLE_PROMISE, PROMISE, PROMISES, MESSAGES, HISTORY,
    SUMMARIES, DELETE, FORGET, IDLE, DECLARE,
)  # fmt: skip
