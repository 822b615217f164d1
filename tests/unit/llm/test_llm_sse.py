"""Server-sent events."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.dataplane.llm.sse import EventParser, EventTooLarge


def parsed(*pieces: bytes) -> list[bytes]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)]


@pytest.mark.parametrize(
    ("received", "events"),
    [
        (b"data: one\n\ndata: two\n\n", [b"one", b"two"]),
        (b"data: one\r\n\r\ndata: two\r\n\r\n", [b"one", b"two"]),
        (b"data: one\r\rdata: two\r\r", [b"one", b"two"]),
        (b"data:one\n\n", [b"one"]),
        (b"data:  one \n\n", [b" one "]),
        (b"data: one\ndata: two\n\n", [b"one\ntwo"]),
        (b"data\n\n", [b""]),
        (b": keep alive\n\n:\n\ndata: one\n\n", [b"one"]),
        (b"event: message\nid: 7\nretry: 9\ndata: one\n\n", [b"one"]),
        (b"\xef\xbb\xbfdata: one\n\n", [b"one"]),
        (b"data: \xef\xbb\xbf\n\n", [b"\xef\xbb\xbf"]),
        (b"database: one\ndatum\n\n", []),
        (b"data: never ended\n", []),
        (b"\n\n\n", []),
        (b"", []),
    ],
)
def test_events(received: bytes, events: list[bytes]) -> None:
    assert parsed(received) == events


def test_an_event_comes_out_as_soon_as_its_end_has_come_in() -> None:
    parser = EventParser()
    assert parser.feed(b"data: one\r\n\r") == [b"one"]
    assert parser.feed(b"\ndata: two\n\n") == [b"two"]
    assert parser.feed(b"data: three\r\r") == [b"three"]
    assert parser.feed(b"data: four\n\n") == [b"four"]


lines = st.sampled_from([b"data: a", b"data:b", b"data", b": c", b"event: d", b"", b"", b"\xef\xbb\xbfdata: e"])
ends = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(st.lists(st.tuples(lines, ends)), st.lists(st.integers(0, 200)))
def test_where_the_bytes_are_cut_makes_no_difference(several: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    received = b"".join(line + end for line, end in several)
    places = [0, *sorted(cuts), len(received)]
    pieces = [received[start:end] for start, end in pairwise(places)]
    assert parsed(*pieces) == parsed(received)
    assert parsed(*(received[at : at + 1] for at in range(len(received)))) == parsed(received)


@pytest.mark.parametrize("piece", [b"x" * 4096, b"data: " + b"x" * 4096 + b"\n", b"data\n" * 4096])
def test_an_event_without_end_is_given_up(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troupe.dataplane.llm.sse.MAX_EVENT", 65536)
    parser = EventParser()
    with pytest.raises(EventTooLarge):
        for _ in range(65536 // 4096 + 1):
            parser.feed(piece)


def test_a_long_stream_is_no_long_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troupe.dataplane.llm.sse.MAX_EVENT", 65536)
    parser = EventParser()
    for _ in range(16):
        parser.feed(b"data: " + b"x" * 32768)
        assert len(parser.feed(b"\n\n")) == 1
