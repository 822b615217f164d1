"""What was said in a session, for those who ask."""

from typing import Final

from troupe.broker.addressing import SessionKey
from troupe.dataplane.agent import history
from troupe.dataplane.agent.conversation import AssistantMessage, Entry, UserMessage
from troupe.dataplane.state.port import StateStore
from troupe.dataplane.tools.call import ToolMessage
from troupe.v1.agent_pb2 import HistoryEntry

DELTAS: Final = 100
"""Turns that the store is asked for at once."""


async def newest_entries(store: StateStore, key: SessionKey, wanted: int) -> list[HistoryEntry]:
    """The newest entries of the session's history, oldest first."""
    found: list[Entry] = []
    before: int | None = None
    while len(found) < wanted and (page := await store.history(key, before, DELTAS)):
        found[:0] = history.replay(delta for _, delta in reversed(page))
        before = page[-1][0]
    return [_shown(entry) for entry in found[max(0, len(found) - wanted) :]]


def _shown(entry: Entry) -> HistoryEntry:
    match entry:
        case UserMessage(text=text, message_id=message_id):
            return HistoryEntry(role="user", text=text, message_id=message_id)
        case AssistantMessage(text=text, message_id=message_id, tool_calls=calls):
            shown = HistoryEntry(role="assistant", text=text, message_id=message_id)
            for call in calls:
                shown.tool_calls.add(call_id=call.call_id, tool=call.tool, arguments=call.arguments)
            return shown
        case ToolMessage(call_id=call_id, content=content, message_id=message_id):
            return HistoryEntry(role="tool", text=content, call_id=call_id, message_id=message_id)
