"""What every blob store can do. `directory.py` and `remote.py` do it; one contract suite runs over both."""

import hashlib
from typing import Protocol

from troupe.chassis.errors import DataLoss, NotFound


class BlobMissing(NotFound):
    """Nothing is kept under that digest: the store was emptied, or is not the one that the payload was put into."""


class BlobDamaged(DataLoss):
    """What is kept under the digest says something else."""


class BlobStore(Protocol):
    """Bytes by tenant and SHA-256. A blob never changes, so that any number of processes may share a store; it is kept
    until somebody clears the store from outside. Both raise Unavailable where the store cannot be used, and may be
    repeated."""

    async def put(self, tenant: str, blob: bytes) -> bytes:
        """The digest of `blob`, once it cannot be lost. Putting the same again changes nothing."""
        ...

    async def get(self, tenant: str, digest: bytes) -> bytes:
        """The blob of this digest. Raises BlobMissing, BlobDamaged."""
        ...


def place(tenant: str, digest: bytes) -> str:
    """Where a blob lies below the store's root: a folder for the tenant, and 256 in it, so that none grows too large.
    A tenant's name needs no escaping."""
    name = digest.hex()
    return f"{tenant}/{name[:2]}/{name}"


def verified(place: str, digest: bytes, blob: bytes) -> bytes:
    """`blob`, if it is the one of that digest. Raises BlobDamaged."""
    if hashlib.sha256(blob).digest() != digest:
        raise BlobDamaged("BLOB_DAMAGED", f"blob {place} holds something else than its name says; restore it")
    return blob


def missing(place: str) -> BlobMissing:
    return BlobMissing("BLOB_MISSING", f"no blob {place}; is this the blob store that the payload was put into?")
