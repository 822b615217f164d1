"""From a URL to a blob store. fsspec is imported for a URL of its own."""

from pathlib import Path

from troupe.chassis.errors import InvalidArgument
from troupe.dataplane.blobs.directory import DirectoryBlobs
from troupe.dataplane.blobs.port import BlobStore


def connected(url: str) -> BlobStore:
    """The store that `url` names: `file:///PATH` (four slashes for an absolute path) or any URL of fsspec, such as
    `s3://bucket/prefix`, whose package is installed. Raises InvalidArgument for any other."""
    scheme, separator, path = url.partition("://")
    if not separator or not path.strip("/"):
        raise InvalidArgument(
            "BAD_BLOBS_URL", f"no blob store at {url!r}: the URL must be file:///PATH or one of fsspec, with a path"
        )
    if scheme == "file":
        return DirectoryBlobs(Path(path.removeprefix("/")))
    from troupe.dataplane.blobs.remote import RemoteBlobs

    return RemoteBlobs.at(url)
