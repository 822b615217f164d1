"""The newest entries of a history that is read page by page."""

from collections.abc import Sequence
from typing import Any

import pytest

from troupe.broker.addressing import SessionKey
from troupe.dataplane.agent import history
from troupe.dataplane.agent.conversation import AssistantMessage, UserMessage
from troupe.dataplane.session_history import DELTAS, newest_entries

KEY = SessionKey("default", "default", "clerk", "s")
TURNS = 3 * DELTAS + 7


class Deltas:
    """In the part of the store: one turn's question and answer led to each version."""

    def __init__(self) -> None:
        self.asked = 0

    async def history(self, key: SessionKey, before: int | None, limit: int) -> Sequence[tuple[int, bytes]]:
        self.asked += 1
        last = TURNS if before is None else before - 1
        return [(version, delta(version)) for version in range(last, max(0, last - limit), -1)]


def delta(version: int) -> bytes:
    question = UserMessage(text=f"q{version}", message_id=f"m{version}")
    return history.encode([question, AssistantMessage(text=f"a{version}", message_id=f"m{version}")])


@pytest.mark.parametrize(
    ("wanted", "asked"), [(0, 0), (1, 1), (2 * DELTAS, 1), (2 * DELTAS + 1, 2), (2 * TURNS, 4), (2 * TURNS + 1, 5)]
)
async def test_as_many_pages_are_read_as_it_takes(wanted: int, asked: int) -> None:
    store: Any = Deltas()
    entries = await newest_entries(store, KEY, wanted)
    everything = [text for version in range(1, TURNS + 1) for text in (f"q{version}", f"a{version}")]
    assert [entry.text for entry in entries] == everything[max(0, len(everything) - wanted) :]
    assert store.asked == asked
