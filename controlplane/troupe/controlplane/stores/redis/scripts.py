"""The scripts that Redis runs: `lua/NAME.lua`, behind `fleet.lua` and the parts that its first line names."""

import hashlib
from dataclasses import dataclass
from importlib import resources

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


def _script(name: str, *, of_a_fleet: bool = True) -> Script:
    own = _read(name)
    first = own.partition("\n")[0]
    parts = first.removeprefix(WITH).split() if first.startswith(WITH) else []
    body = "\n".join([*map(_read, [*(["fleet"] if of_a_fleet else []), *parts]), own]).encode()
    return Script(name, body, hashlib.sha1(body, usedforsecurity=False).hexdigest().encode())


CREATE = _script("create", of_a_fleet=False)
LEADERSHIP, LEAD, RESIGN = _script("leadership"), _script("lead"), _script("resign")
COMMIT, SAVE_ROLLOUTS = _script("commit"), _script("save_rollouts")
REVISION, REVISIONS, LAST_COMPLETE = _script("revision"), _script("revisions"), _script("last_complete")
PLACEMENT, SAVE_PLACEMENT = _script("placement"), _script("save_placement")
WORKERS, REMEMBER_WORKER, FORGET_WORKER = _script("workers"), _script("remember_worker"), _script("forget_worker")

SCRIPTS = (
    CREATE, LEADERSHIP, LEAD, RESIGN, COMMIT, SAVE_ROLLOUTS, REVISION, REVISIONS, LAST_COMPLETE, PLACEMENT,
    SAVE_PLACEMENT, WORKERS, REMEMBER_WORKER, FORGET_WORKER,
)  # fmt: skip
