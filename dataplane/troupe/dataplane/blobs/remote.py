"""Blobs anywhere that fsspec reaches: object stores, network file systems."""

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import fsspec

from troupe.chassis.errors import InvalidArgument, TroupeError, Unavailable
from troupe.dataplane.blobs.port import missing, place, verified


class RemoteBlobs:
    """See `troupe.dataplane.blobs.port.BlobStore`. How durable a blob is, is the other side's to say."""

    def __init__(self, url: str, files: Any, root: str) -> None:
        self._url, self._files, self._root = url, files, root.rstrip("/")

    @classmethod
    def at(cls, url: str) -> Self:
        """Raises InvalidArgument for a URL that fsspec, as it is installed here, cannot open."""
        try:
            files, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise InvalidArgument("BAD_BLOBS_URL", f"no blob store at {url!r}: {error}") from error
        return cls(url, files, root)

    async def put(self, tenant: str, blob: bytes) -> bytes:
        return await asyncio.to_thread(self._put, tenant, blob)

    async def get(self, tenant: str, digest: bytes) -> bytes:
        return await asyncio.to_thread(self._get, tenant, digest)

    def _put(self, tenant: str, blob: bytes) -> bytes:
        digest = hashlib.sha256(blob).digest()
        where = f"{self._root}/{place(tenant, digest)}"
        with self._usable():
            if not self._files.exists(where):
                self._files.makedirs(where.rpartition("/")[0], exist_ok=True)
                self._files.pipe_file(where, blob)
        return digest

    def _get(self, tenant: str, digest: bytes) -> bytes:
        where = place(tenant, digest)
        with self._usable():
            try:
                return verified(where, digest, self._files.cat_file(f"{self._root}/{where}"))
            except FileNotFoundError as error:
                raise missing(where) from error

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Each file system of fsspec has errors of its own."""
        try:
            yield
        except TroupeError:
            raise
        except Exception as error:
            raise Unavailable(
                "BLOBS_UNAVAILABLE", f"the blob store {self._url} cannot be used: {type(error).__name__}: {error}"
            ) from error
