"""Blobs as files of one directory, which any number of processes may share."""

import asyncio
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from troupe.chassis.errors import Unavailable
from troupe.chassis.ids import uuid7
from troupe.dataplane.blobs.port import missing, place, verified


class DirectoryBlobs:
    """See `troupe.dataplane.blobs.port.BlobStore`. The directory is made with the first blob."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, tenant: str, blob: bytes) -> bytes:
        return await asyncio.to_thread(self._put, tenant, blob)

    async def get(self, tenant: str, digest: bytes) -> bytes:
        return await asyncio.to_thread(self._get, tenant, digest)

    def _put(self, tenant: str, blob: bytes) -> bytes:
        digest = hashlib.sha256(blob).digest()
        with self._usable():
            _write(self._root / place(tenant, digest), blob)
        return digest

    def _get(self, tenant: str, digest: bytes) -> bytes:
        where = place(tenant, digest)
        with self._usable():
            try:
                return verified(where, digest, (self._root / where).read_bytes())
            except FileNotFoundError as error:
                raise missing(where) from error

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(
                "BLOBS_UNAVAILABLE", f"the blob store {self._root} cannot be used: {error.strerror}"
            ) from error


def _write(file: Path, blob: bytes) -> None:
    """Whole or not at all, and durable when it returns. One that is there already is made durable again: whoever
    wrote it may have died before."""
    if not file.exists():
        made = _make(file.parent)
        unfinished = file.with_name(f"{file.name}.{uuid7()}")
        try:
            unfinished.write_bytes(blob)
            _sync(unfinished)
            unfinished.rename(file)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise
        for directory in made:
            _sync(directory)
    _sync(file)
    _sync(file.parent)


def _make(directory: Path) -> list[Path]:
    """Make the directory; the ones that got a new entry by that."""
    absent = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    return [path.parent for path in absent]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
