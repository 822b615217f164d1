"""One SQLite file on disk: who holds it, what it holds, and what SQLite's errors about it mean."""

import contextlib
import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from troupe.chassis.errors import DataLoss, FailedPrecondition, TroupeError, Unavailable


@dataclass(frozen=True, slots=True)
class Schema:
    """What a database file holds. `version` grows with every change of `statements`."""

    name: str
    version: int
    statements: Sequence[str]
    migrations: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """By version: what makes a file of it one of the next version. A file from before all of them is refused."""

    @property
    def mark(self) -> int:
        """SQLite's application id, kept in the file's header: tells the file from other databases."""
        return int.from_bytes(hashlib.sha256(f"troupe.{self.name}".encode()).digest()[:4]) >> 1


def lock(path: Path) -> int:
    """A descriptor that holds the file for this process until it is closed; its directory is made where missing.
    Raises FailedPrecondition when another process holds it, naming its pid, or the directory cannot be written."""
    descriptor = lockable(path)
    try:
        owned = held(path, descriptor, alone=True)
        refusal = None if owned else in_use(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    if refusal is not None:
        os.close(descriptor)
        raise refusal
    return descriptor


def lockable(path: Path) -> int:
    """A descriptor with which the file can be held, and which lets go of it when it is closed; the file's directory
    is made where missing. Raises FailedPrecondition where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unwritable(path, error.strerror) from error


def held(path: Path, descriptor: int, *, alone: bool) -> bool:
    """Whether this process now holds the file, alone or together with others that do not hold it alone. Where it is
    not, a hold that the descriptor had is lost. Raises FailedPrecondition where the directory cannot be written."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        return False
    except OSError as error:
        raise _unwritable(path, error.strerror) from error
    return True


def in_use(path: Path, descriptor: int) -> FailedPrecondition:
    """What is raised where another process holds the file."""
    holder = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
    return FailedPrecondition(
        "DATA_IN_USE", f"{path.parent} is in use by process {holder}; stop it, or name another directory with --data"
    )


def connect(path: Path) -> sqlite3.Connection:
    """A connection whose commits are durable when they return. Transactions are begun and ended by hand."""
    # An absolute path: SQLite reads some relative ones, such as `:memory:`, as something else than a file.
    connection = sqlite3.connect(path.absolute(), isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA busy_timeout = 5000")
    return connection


def prepare(path: Path, schema: Schema, then: Callable[[sqlite3.Connection], object] | None = None) -> None:
    """Make the file hold `schema`, or find that it does, then do `then`, in one transaction. Raises
    FailedPrecondition when it holds a version of it that cannot become this one or cannot be written, DataLoss when
    it is no database, or one of another kind."""

    def work(connection: sqlite3.Connection) -> None:
        _ensure(connection, path, schema)
        if then is not None:
            then(connection)

    _do(path, "BEGIN IMMEDIATE", work)


def check(path: Path, schema: Schema) -> None:
    """Find that the file, which other processes use, holds `schema`. Raises what `prepare` does, and
    FailedPrecondition where it holds an older version: others work with that one."""

    def work(connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (mark,) = connection.execute("PRAGMA application_id").fetchone()
        if mark == schema.mark and version < schema.version:
            raise FailedPrecondition(
                "DATA_IN_USE",
                f"{path} has schema {version} and is in use by an older troupe; stop that one first, so that this one "
                f"can bring the file to schema {schema.version}",
            )
        _ensure(connection, path, schema)

    _do(path, "BEGIN", work)


def _do(path: Path, begin: str, work: Callable[[sqlite3.Connection], object]) -> None:
    try:
        with contextlib.closing(connect(path)) as connection:
            connection.execute(begin)
            work(connection)
            connection.execute("COMMIT")
    except sqlite3.DatabaseError as error:
        raise (_broken(path, error) if _code(error) in _BROKEN else _unwritable(path, error)) from error


def failure(path: Path, error: sqlite3.Error) -> TroupeError | None:
    """What an error in the midst of work means to callers: Unavailable where the disk fails, DataLoss where the file
    is damaged. None when it is neither: the statement was wrong, or broke a constraint."""
    code = _code(error)
    if code in _BROKEN:
        return _broken(path, error)
    if code == sqlite3.SQLITE_BUSY:
        return Unavailable(
            "STORE_BUSY",
            f"another process has been writing to {path.name} for too long ({error}); is one of them stopped?",
        )
    if isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
        return Unavailable(
            "STORE_UNAVAILABLE", f"{path.name} cannot be used ({error}); check the disk of {path.parent}"
        )
    return None


def _ensure(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (mark,) = connection.execute("PRAGMA application_id").fetchone()
    if (version, mark) == (0, 0) and connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None:
        for statement in schema.statements:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {schema.version}")
        connection.execute(f"PRAGMA application_id = {schema.mark}")
    elif mark != schema.mark:
        raise _broken(path, f"it is no {schema.name} store of troupe")
    elif version > schema.version:
        raise FailedPrecondition(
            "DATA_NEWER",
            f"{path} has schema {version} and this troupe knows {schema.version}: it was written by a newer one; "
            "run that, or name another directory with --data",
        )
    elif any(older not in schema.migrations for older in range(version, schema.version)):
        raise FailedPrecondition(
            "DATA_OLDER",
            f"{path} has schema {version}, which this troupe, with {schema.version}, cannot read any more; run the "
            "one that wrote it, or name another directory with --data",
        )
    elif version < schema.version:
        for older in range(version, schema.version):
            for statement in schema.migrations[older]:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {schema.version}")


_BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code. Errors that Python's module raises by itself have none and are defects."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _broken(path: Path, why: object) -> TroupeError:
    return DataLoss("DATA_BROKEN", f"{path} cannot be used as a database ({why}); restore a backup or move it away")


def _unwritable(path: Path, why: object) -> TroupeError:
    return FailedPrecondition(
        "DATA_UNWRITABLE", f"cannot write in {path.parent} ({why}); make room, or name another directory with --data"
    )
