"""What the simulator remembers: nothing but the messages of the request."""

import re
from collections.abc import Sequence

_NAME = re.compile(r"\b(?i:my name is|i am called|i'm called)\s+(?P<name>[^\W\d_][\w'-]*(?:\s+[A-Z][\w'-]*)*)")
_ASKS_NAME = re.compile(
    r"\bwhat(?:'s|\s+is|\s+was)\s+my\s+name\b|\bwho\s+am\s+i\b|\bremember\s+my\s+name\b", re.IGNORECASE
)
_ASKS_FIRST = re.compile(
    r"\bwhat\s+(?:did\s+i\s+(?:say|ask)(?:\s+you)?\s+first|was\s+my\s+first\s+(?:message|question))\b", re.IGNORECASE
)
_ASKS_BEFORE = re.compile(
    r"\bwhat\s+(?:did\s+i\s+(?:say|ask)(?:\s+you)?\s+(?:before|last)|was\s+my\s+last\s+(?:message|question))\b",
    re.IGNORECASE,
)


def recall(said: Sequence[str]) -> str | None:
    """The answer to a question about what the user said, or to an introduction; None when the last message is neither.
    `said` is all that the user said, oldest first."""
    question = said[-1] if said else ""
    if _ASKS_NAME.search(question):
        names = [found["name"] for text in reversed(said) if (found := _NAME.search(text))]
        return f"Your name is {names[0]}." if names else "You have not told me your name."
    if _ASKS_FIRST.search(question):
        return _quoted("first", said[:-1][:1])
    if _ASKS_BEFORE.search(question):
        return _quoted("before", said[-2:-1])
    if found := _NAME.search(question):
        return f"Nice to meet you, {found['name']}."
    return None


def _quoted(when: str, said: Sequence[str]) -> str:
    return f'You said {when}: "{said[0]}"' if said else "You have said nothing before this."
