"""Where an issuer's keys come from, and how often they are asked for."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from support.credentials import Signer, key_set
from support.fake_clock import FakeClock

from troupe.chassis.access import key_source
from troupe.chassis.access.key_source import BETWEEN, FRESH, MAX_BYTES, KeySource
from troupe.chassis.errors import Unavailable


class KeyServer:
    """Serves a document over HTTP, and counts who asks."""

    def __init__(self, document: bytes) -> None:
        self.document, self.asked, self.status = document, 0, 200

    @contextmanager
    def serving(self) -> Iterator[str]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                self.send_response(outer.status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(outer.document)))
                self.end_headers()
                self.wfile.write(outer.document)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/keys"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


async def test_keys_come_from_a_file_and_follow_it(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys.json", FakeClock()
    path.write_bytes(key_set(Signer("one")))
    source = KeySource(str(path), clock)
    assert await source.key("one") is not None
    assert await source.key("") is await source.key("one"), "the only key needs no name"
    path.write_bytes(key_set(Signer("two"), Signer("three")))
    clock.advance(BETWEEN)
    assert await source.key("two") is not None
    assert await source.key("one") is None
    assert await source.key("") is None


async def test_keys_are_fetched_once_for_all_who_wait_and_not_again_for_made_up_ones() -> None:
    server, clock = KeyServer(key_set(Signer("one"))), FakeClock()
    with server.serving() as url:
        source = KeySource(url, clock)
        assert None not in await asyncio.gather(*(source.key("one") for _ in range(20)))
        for number in range(50):
            assert await source.key(f"made up {number}") is None
        assert server.asked == 1
        clock.advance(BETWEEN)
        await asyncio.gather(*(source.key(f"made up {number}") for number in range(50)))
        assert server.asked == 2
        clock.advance(FRESH - 1)
        await source.key("one")
        assert server.asked == 2
        clock.advance(1)
        await source.key("one")
        assert server.asked == 3


@pytest.mark.parametrize(
    ("document", "status"), [(b"garbage", 200), (b"x" * (MAX_BYTES + 1), 200), (b"", 500), (key_set(Signer()), 302)]
)
async def test_an_issuer_that_fails_keeps_its_keys_and_without_any_the_call_may_be_tried_again(
    document: bytes, status: int
) -> None:
    good, clock = key_set(Signer("one")), FakeClock()
    server = KeyServer(document)
    server.status = status
    with server.serving() as url:
        source = KeySource(url, clock)
        with pytest.raises(Unavailable) as refused:
            await source.key("one")
        assert refused.value.reason == "KEYS_UNREACHABLE"
        server.document, server.status = good, 200
        clock.advance(BETWEEN)
        assert await source.key("one") is not None
        server.document, server.status = document, status
        clock.advance(FRESH)
        assert await source.key("one") is not None


async def test_an_issuer_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_source, "FETCH", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Unavailable):
        await KeySource(f"http://127.0.0.1:{silent.getsockname()[1]}/keys", FakeClock()).key("one")
