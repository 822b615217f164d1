"""What every blob store promises: one suite, run over each backend."""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from troupe.broker.envelope import MAX_PAYLOAD
from troupe.chassis.errors import InvalidArgument, Unavailable
from troupe.dataplane.blobs.connect import connected
from troupe.dataplane.blobs.payloads import MAX_CONTENT, Payloads, check_inline
from troupe.dataplane.blobs.port import BlobDamaged, BlobMissing, BlobStore, place
from troupe.v1.envelope_pb2 import Blob, Content, Data

Open = Callable[[], BlobStore]
BODY = b"what was said" * 1000


@pytest.fixture(params=["directory", "fsspec"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file:///{tmp_path}/blobs" if request.param == "directory" else f"memory://{tmp_path}/blobs"


@pytest.fixture
def blobs(url: str) -> BlobStore:
    return connected(url)


def _overwrite(url: str, tenant: str, digest: bytes, body: bytes) -> None:
    files, root = fsspec.core.url_to_fs(url.replace("file:////", "file:///"))
    files.pipe_file(f"{root}/{place(tenant, digest)}", body)


def _files(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob("*") if path.is_file()]


async def test_what_was_put_is_got_by_its_digest_by_whoever_opens_the_store(blobs: BlobStore, url: str) -> None:
    digest = await blobs.put("acme", BODY)

    assert digest == hashlib.sha256(BODY).digest()
    assert await connected(url).get("acme", digest) == BODY


async def test_putting_the_same_again_changes_nothing(blobs: BlobStore) -> None:
    assert await blobs.put("acme", BODY) == await blobs.put("acme", BODY)

    assert await blobs.get("acme", hashlib.sha256(BODY).digest()) == BODY


async def test_one_tenant_does_not_see_what_another_has_put(blobs: BlobStore) -> None:
    digest = await blobs.put("acme", BODY)

    with pytest.raises(BlobMissing, match="no blob other/"):
        await blobs.get("other", digest)


async def test_what_was_never_put_is_missing(blobs: BlobStore) -> None:
    with pytest.raises(BlobMissing):
        await blobs.get("acme", hashlib.sha256(b"nothing").digest())


@pytest.mark.parametrize("damaged", [b"", BODY[:-1], b"x" + BODY[1:]])
async def test_what_is_damaged_is_never_given_out(blobs: BlobStore, url: str, damaged: bytes) -> None:
    digest = await blobs.put("acme", BODY)
    _overwrite(url, "acme", digest, damaged)

    with pytest.raises(BlobDamaged, match="something else"):
        await blobs.get("acme", digest)


async def test_a_directory_that_cannot_be_used_is_unavailable_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file in the way")

    with pytest.raises(Unavailable, match="cannot be used: Not a directory"):
        await connected(f"file:///{tmp_path}/blobs").put("acme", BODY)

    assert _files(tmp_path) == ["blobs"]


async def test_a_write_that_fails_half_way_leaves_nothing_that_could_be_got(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, real = connected(f"file:///{tmp_path}/blobs"), os.fsync

    def full(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="No space left on device"):
        await store.put("acme", BODY)
    assert _files(tmp_path) == []

    monkeypatch.undo()
    assert await store.get("acme", await store.put("acme", BODY)) == BODY


@pytest.mark.parametrize("url", ["", "blobs", "file:///", "file://", "nosuch://bucket/prefix", "s3"])
def test_a_url_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument, match="no blob store at"):
        connected(url)


class TestPayloads:
    """Contents as they travel."""

    LARGE = (
        Content(text="ü" * MAX_PAYLOAD),
        Content(data=Data(content_type="image/png", value=bytes(range(256)) * 1024)),
    )

    @pytest.mark.parametrize("content", LARGE, ids=["text", "data"])
    async def test_a_large_content_travels_as_a_small_reference_and_comes_out_whole(
        self, blobs: BlobStore, content: Content
    ) -> None:
        payloads = Payloads(blobs)

        travelling = await payloads.detached("acme", content)

        assert travelling.ByteSize() < 100
        assert await payloads.inline("acme", travelling) == content
        assert await payloads.detached("acme", content) == travelling

    @pytest.mark.parametrize("length", [0, 1, MAX_PAYLOAD - 10])
    async def test_a_small_one_travels_as_it_is(self, blobs: BlobStore, length: int) -> None:
        content = Content(text="x" * length)

        assert await Payloads(blobs).detached("acme", content) is content
        assert await Payloads(blobs).inline("acme", content) is content

    async def test_bytes_without_a_type_do_not_come_out_as_text(self, blobs: BlobStore) -> None:
        payloads = Payloads(blobs)

        travelling = await payloads.detached("acme", Content(data=Data(value=b"x" * MAX_PAYLOAD)))

        assert (await payloads.inline("acme", travelling)).data.content_type == "application/octet-stream"

    async def test_what_is_larger_than_anything_may_be_is_refused_with_size_and_limit(self, blobs: BlobStore) -> None:
        with pytest.raises(InvalidArgument, match=rf"bytes are more than the {MAX_CONTENT}"):
            await Payloads(blobs).detached("acme", Content(text="x" * (MAX_CONTENT + 1)))

    def test_a_caller_that_names_a_blob_is_refused(self) -> None:
        with pytest.raises(InvalidArgument, match=r"content\.blob"):
            check_inline(Content(blob=Blob(sha256=b"x" * 32)))
        check_inline(Content(text="x"))
