"""Tokens from a file that keeps their SHA-256 alone: who reads the file cannot call.

The file is TOML, one table for each token, and is read again when it changes:

    [[token]]
    name = "ci"
    sha256 = "…"
    roles = ["admin"]
    expires = 2027-01-01T00:00:00Z
"""

import hashlib
import hmac
import re
import secrets
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import structlog

from troupe.chassis.access import claims
from troupe.chassis.access.roles import Caller
from troupe.chassis.errors import InvalidArgument
from troupe.chassis.files import Stamp, stamp
from troupe.chassis.rpc_errors import Unauthenticated

log = structlog.get_logger()

PREFIX: Final = "troupe_"
"""So that scanners of repositories and logs know a token when they see one."""
MAX_ENTRIES: Final = 10_000
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KNOWN: Final = {"name", "sha256", "roles", "tenant", "agents", "expires"}


def fresh_token() -> str:
    """A new token of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def hashed(token: str) -> str:
    """What the file keeps of a token. It is random, so that a fast hash without salt is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """One token of the file."""

    caller: Caller
    sha256: str
    expires: float | None
    """Seconds since the epoch."""


class TokenFile:
    """The tokens that are valid now."""

    def __init__(self, path: Path) -> None:
        """Raises InvalidArgument BAD_TOKENS where the file cannot be read or an entry is wrong."""
        self._path = path
        self._seen: Stamp = stamp(path)
        self._entries = _by_beginning(read(path))

    def caller(self, token: str, now: float) -> Caller | None:
        """Whose token it is at `now` seconds since the epoch; None for one that is not in the file. Raises
        Unauthenticated TOKEN_EXPIRED."""
        self._refresh()
        digest = hashed(token)
        found: Entry | None = None
        # Where the digest begins is no secret: nobody can choose a token for the digest that it will have.
        for entry in self._entries.get(digest[:_BEGINNING], ()):
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        if found is None:
            return None
        if found.expires is not None and now >= found.expires:
            raise Unauthenticated("TOKEN_EXPIRED", f"the token of {found.caller.name} has expired; get a new one")
        return found.caller

    def _refresh(self) -> None:
        seen = stamp(self._path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._entries = _by_beginning(read(self._path))
        except InvalidArgument as error:
            log.error("changed tokens not taken", reason=error.reason, error=str(error))
        else:
            log.info("tokens read again", file=str(self._path))


def read(path: Path) -> list[Entry]:
    """All entries. Raises InvalidArgument BAD_TOKENS."""
    try:
        return parsed(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(path, " ".join(str(error).split())) from error


def parsed(text: str, path: Path) -> list[Entry]:
    """All entries of the text, which is or shall be that of the file. Raises InvalidArgument BAD_TOKENS."""
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _bad(path, " ".join(str(error).split())) from error
    tables = content.get("token", [])
    if content.keys() - {"token"} or not isinstance(tables, list) or len(tables) > MAX_ENTRIES:
        raise _bad(path, f"it must hold [[token]] tables, at most {MAX_ENTRIES}, and nothing else")
    entries: list[Entry] = []
    for number, table in enumerate(tables, 1):
        try:
            entries.append(_entry(table))
        except ValueError as error:
            raise _bad(path, f"token {number}: {error}") from error
    return entries


def _entry(table: Any) -> Entry:
    if not isinstance(table, dict):
        raise ValueError("must be a table")  # noqa: TRY004  # of the file, not of this program
    if unknown := table.keys() - _KNOWN:
        raise ValueError(f"there is no {min(unknown)}")
    sha256, expires = table.get("sha256"), table.get("expires")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError("sha256 must be the 64 hexadecimal digits of the token's SHA-256")
    return Entry(claims.of_entry(table), sha256, None if expires is None else _moment(expires))


def _moment(expires: Any) -> float:
    match expires:
        case datetime():
            at = expires
        case date():
            at = datetime(expires.year, expires.month, expires.day)
        case _:
            raise ValueError("expires must be a date or a time, such as 2027-01-01T00:00:00Z")
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


_BEGINNING: Final = 8


def _by_beginning(entries: list[Entry]) -> Mapping[str, list[Entry]]:
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[entry.sha256[:_BEGINNING]].append(entry)
    return found


def _bad(path: Path, why: str) -> InvalidArgument:
    return InvalidArgument("BAD_TOKENS", f"file of tokens {path}: {why}")
