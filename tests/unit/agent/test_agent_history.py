"""Stored histories."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.conversations import answers, histories, turns

from troupe.chassis.errors import DataLoss, FailedPrecondition
from troupe.dataplane.agent import history
from troupe.dataplane.agent.conversation import Entry, ModelAnswer


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
