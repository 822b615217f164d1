"""What the model is shown of a conversation that may be longer than its budget.

The system prompt and the running turn are always whole. Of the earlier turns the newest stay, each whole, so that an
assistant message with tool calls is never without its results; the oldest are left out. They go in chunks: once the
budget is exceeded, turns go until `KEEP` of it is left. Between two such cuts a prompt only grows at its end, and so
a model server's prefix cache serves all that came before. Where the cut is depends on the entries alone, so any worker
cuts a conversation at the same place.

Tokens are estimated, not counted: one for each 3 bytes of UTF-8, and `PER_ENTRY` for the frame around each entry. That
is near the truth for code, JSON and Chinese, and a third too much for English prose: a budget kept with room to spare.

A summary of the turns left out (not built) has its place between the system prompt and the first entry kept: made at
a cut, it changes only when the prefix changes anyway.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from troupe.dataplane.agent.conversation import AssistantMessage, Entry, UserMessage

KEEP: Final = 0.75
"""Share of the budget that a cut leaves."""
PER_ENTRY: Final = 4
BYTES_PER_TOKEN: Final = 3


class Window(Struct, frozen=True):
    """The part of a conversation that is shown: from `start` on. Grows with `extended`, entry by entry, and comes out
    the same whether it is built at once or in steps."""

    budget: int
    """Tokens for everything, `fixed` included."""
    fixed: int = 0
    """Tokens of what is always there: system prompt and tool declarations."""
    start: int = 0
    """Index of the first entry shown."""
    tokens: int = 0
    """Estimate for the entries shown."""
    turns: tuple[tuple[int, int], ...] = ()
    """For each turn shown, oldest first: index of its first entry, tokens."""
    seen: int = 0
    """Entries of the conversation so far."""

    def extended(self, entries: Sequence[Entry]) -> "Window":
        """The window after `entries` were appended to the conversation."""
        start, tokens, turns, seen = self.start, self.tokens, list(self.turns), self.seen
        for entry in entries:
            size = tokens_of_entry(entry)
            if isinstance(entry, UserMessage) or not turns:
                turns.append((seen, size))
            else:
                first, before = turns[-1]
                turns[-1] = (first, before + size)
            seen += 1
            tokens += size
            if tokens + self.fixed > self.budget:
                dropped = 0
                while dropped < len(turns) - 1 and tokens + self.fixed > self.budget * KEEP:
                    tokens -= turns[dropped][1]
                    dropped += 1
                del turns[:dropped]
                start = turns[0][0]
        return Window(self.budget, self.fixed, start, tokens, tuple(turns), seen)

    @property
    def excess(self) -> int:
        """Estimated tokens beyond the budget: positive when the newest turn alone does not fit."""
        return max(0, self.tokens + self.fixed - self.budget)


def tokens_of(text: str) -> int:
    """Estimated tokens of a text."""
    size = len(text) if text.isascii() else len(text.encode(errors="replace"))
    return -(-size // BYTES_PER_TOKEN)


def tokens_of_entry(entry: Entry) -> int:
    """Estimated tokens of an entry with its frame."""
    match entry:
        case AssistantMessage(text=text, tool_calls=calls):
            asked = sum(PER_ENTRY + tokens_of(call.tool) + tokens_of(call.arguments) for call in calls)
            return PER_ENTRY + tokens_of(text) + asked
        case UserMessage(text=text):
            return PER_ENTRY + tokens_of(text)
        case _:
            return PER_ENTRY + tokens_of(entry.content)
