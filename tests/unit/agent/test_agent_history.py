"""Stored histories."""

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.conversations import answers, histories, turns

from troupe.chassis.errors import DataLoss, FailedPrecondition
from troupe.dataplane.agent import history
from troupe.dataplane.agent.conversation import AssistantMessage, Entry, ModelAnswer, UserMessage
from troupe.dataplane.tools.call import ToolCall, ToolMessage


@given(histories)
def test_a_history_comes_back_as_it_was(entries: tuple[Entry, ...]) -> None:
    assert history.decode(history.encode(entries)) == entries


@given(st.lists(turns(), max_size=4))
def test_deltas_add_up_to_the_conversation(several: list[tuple[Entry, ...]]) -> None:
    assert history.replay(map(history.encode, several)) == tuple(entry for turn in several for entry in turn)


@given(answers)
def test_answers_can_be_journaled(answer: ModelAnswer) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(answer), type=ModelAnswer) == answer


@given(st.binary(max_size=40))
def test_broken_bytes_are_reported_as_such(stored: bytes) -> None:
    with suppress(DataLoss, FailedPrecondition):
        history.decode(stored)


def test_a_newer_schema_is_not_misread() -> None:
    newer = msgspec.msgpack.encode([history.SCHEMA + 1, ["something else"]])
    with pytest.raises(FailedPrecondition, match="run the newer version"):
        history.decode(newer)


STORED_UNDER_1 = bytes.fromhex(
    "920193"
    "83a474797065a475736572a474657874a46d6f7265aa6d6573736167655f6964a26d31"
    "84a474797065a9617373697374616e74a474657874a0aa6d6573736167655f6964a26d31aa746f6f6c5f63616c6c73"
    "9183a763616c6c5f6964a26330a4746f6f6ca46c6f6f6ba9617267756d656e7473a27b7d"
    "85a474797065a4746f6f6ca763616c6c5f6964a26330a4746f6f6ca46c6f6f6ba7636f6e74656e74a26f6b"
    "aa6d6573736167655f6964a26d31"
)
"""What the first release stores of a turn."""


def test_a_history_of_the_first_schema_is_read() -> None:
    assert history.decode(STORED_UNDER_1) == (
        UserMessage("more", "m1"),
        AssistantMessage("", "m1", (ToolCall("c0", "look", "{}"),)),
        ToolMessage("c0", "look", "ok", "m1"),
    )


def test_an_older_history_goes_through_each_schema_on_its_way() -> None:
    def renamed(entries: list[Any]) -> list[Any]:
        return [{**entry, "text": entry["text"].upper()} for entry in entries if entry["type"] == "user"]

    def marked(entries: list[Any]) -> list[Any]:
        return [{**entry, "text": entry["text"] + "!"} for entry in entries]

    read = history._decode(STORED_UNDER_1, 3, {1: renamed, 2: marked})
    assert read == (UserMessage("MORE!", "m1"),)
    with pytest.raises(DataLoss):
        history._decode(STORED_UNDER_1, 3, {1: renamed})


def test_every_older_schema_has_its_upcaster() -> None:
    assert sorted(history.UPCASTERS) == list(range(1, history.SCHEMA))


@given(st.lists(turns(), min_size=1, max_size=5))
def test_a_snapshot_and_the_deltas_since_are_the_conversation(several: list[tuple[Entry, ...]]) -> None:
    for count in range(len(several) + 1):
        before = tuple(entry for turn in several[:count] for entry in turn)
        snapshot = history.snapshot(before) if count else b""
        restored = history.restored(snapshot, map(history.encode, several[count:]))
        assert restored == tuple(entry for turn in several for entry in turn)


def test_a_snapshot_is_bounded_and_keeps_whole_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_SNAPSHOT", 1_000)
    turns = [(UserMessage("x" * 300, f"m{n}"), AssistantMessage("y" * 100, f"m{n}")) for n in range(5)]
    kept = history.decode(history.snapshot([entry for turn in turns for entry in turn]))
    assert kept == (*turns[3], *turns[4])
    large = (UserMessage("x" * 3_000, "m"), AssistantMessage("y", "m"))
    assert history.decode(history.snapshot([*turns[0], *large])) == large, "the newest turn whatever it has"
