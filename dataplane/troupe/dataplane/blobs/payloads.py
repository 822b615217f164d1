"""Contents as they travel: inline, or by reference where they are large. One place turns one into the other."""

from typing import Final

from troupe.broker.envelope import MAX_PAYLOAD
from troupe.chassis.errors import InvalidArgument
from troupe.dataplane.blobs.port import BlobStore
from troupe.v1.envelope_pb2 import Blob, Content

MAX_CONTENT: Final = 16 * 1024 * 1024
"""Bytes that a content may have, however it travels."""
BYTES: Final = "application/octet-stream"


class Payloads:
    """Over one blob store."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    async def detached(self, tenant: str, content: Content) -> Content:
        """`content` as it travels: the same where that is at most MAX_PAYLOAD bytes, else a reference to what is
        durable when this returns. The same content gives the same reference. Raises InvalidArgument where it
        is larger than MAX_CONTENT, Unavailable."""
        if not is_large(content):
            return content
        if (size := content.ByteSize()) > MAX_CONTENT:
            raise InvalidArgument(
                "PAYLOAD_TOO_LARGE", f"content: {size} bytes are more than the {MAX_CONTENT} that one may have"
            )
        if content.WhichOneof("body") == "text":
            body, kind = content.text.encode(), ""
        else:
            body, kind = content.data.value, content.data.content_type or BYTES
        digest = await self._blobs.put(tenant, body)
        return Content(blob=Blob(sha256=digest, size=len(body), content_type=kind))

    async def inline(self, tenant: str, content: Content) -> Content:
        """`content` as its readers get it: whole. Raises BlobMissing, BlobDamaged, Unavailable."""
        if content.WhichOneof("body") != "blob":
            return content
        blob = content.blob
        body = await self._blobs.get(tenant, blob.sha256)
        if not blob.content_type:
            return Content(text=body.decode())
        whole = Content()
        whole.data.content_type, whole.data.value = blob.content_type, body
        return whole


def is_large(content: Content) -> bool:
    """Whether it travels by reference."""
    return content.ByteSize() > MAX_PAYLOAD


def check_inline(content: Content) -> None:
    """Raise InvalidArgument where a caller names a blob: only the fleet does."""
    if content.WhichOneof("body") == "blob":
        raise InvalidArgument("BLOB_NAMED", "content.blob: is not for callers to set; send the content itself")
