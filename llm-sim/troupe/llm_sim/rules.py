"""What the simulator answers: a few plain rules, so that a conversation with it makes sense.

The same request and a generator of the same seed give the same answer. The first rule that applies wins:

1. A script in the request decides.
2. A message that names an offered tool (`use the tool weather with {"city": "Oslo"}`) gets that call, and arithmetic
   ("what is 12 times 7?") gets a call of the calculator, where one is offered: several at once unless
   `parallel_tool_calls` is false, each only once since the user spoke. `tool_choice` is obeyed.
3. "Count to 20" and "say 50 words" get exactly so many tokens.
4. When all calls are answered, there is one sentence for each result.
5. Arithmetic without a calculator is not computed, and the answer says so.
6. What was said is remembered: "what is my name?", "what did I say first?"
7. Anything else comes back as a short echo.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from troupe.llm_sim import conversation, memory
from troupe.llm_sim.arithmetic import expressions
from troupe.llm_sim.calls import Wanted, calculator, wanted
from troupe.llm_sim.conversation import Conversation
from troupe.llm_sim.protocol import ChatRequest
from troupe.llm_sim.results import report
from troupe.llm_sim.script import MOST_TOKENS, Script


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call of an answer. `arguments` is the JSON text that goes out."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Words, or calls, or from a script both."""

    text: str = ""
    calls: tuple[Call, ...] = ()


def reply(request: ChatRequest, rng: Random) -> Answer:
    """The answer to a request that `checks` let through, before max_tokens and stop are applied. `rng` gives the ids of
    calls and the choice of filler words."""
    talk = conversation.read(request.messages)
    script = request.sim or Script()
    scripted = script.text if script.tokens is None or script.text is not None else _filler(script.tokens, rng)
    if script.tool_calls and not talk.awaits_words:
        return Answer(scripted or "", _made([Wanted(call.name, call.arguments) for call in script.tool_calls], rng))
    if scripted is not None:
        return Answer(scripted)
    calls = wanted(request, talk)
    if calls:
        return Answer(calls=_made(calls[:1] if request.parallel_tool_calls is False else calls, rng))
    return Answer(_words(request, talk, rng))


def _made(calls: Sequence[Wanted], rng: Random) -> tuple[Call, ...]:
    return tuple(Call(f"call_{rng.getrandbits(96):024x}", call.name, call.text) for call in calls)


def _words(request: ChatRequest, talk: Conversation, rng: Random) -> str:
    counted = _counted(talk.question, rng)
    if counted is not None:
        return counted
    if talk.done:
        return " ".join(report(done) for done in talk.done)
    sums = expressions(talk.question)
    if sums:
        why = "I may not use tools here" if calculator(request.tools or []) else "I have no calculator"
        return f"{why}, so I cannot compute {' and '.join(sums)}."
    return memory.recall(talk.said) or _echo(talk.question)


_COUNT = re.compile(r"\bcount\s+(?:from\s+(?:1|one)\s+)?(?:up\s+)?to\s+(?P<number>\d{1,9})\b", re.IGNORECASE)
_SAY = re.compile(
    r"\b(?:say|write|answer|reply)\s+(?:with\s+|in\s+)?(?:exactly\s+)?(?P<number>\d{1,9})\s+(?:words?|tokens?)\b",
    re.IGNORECASE,
)


def _counted(question: str, rng: Random) -> str | None:
    found = _COUNT.search(question) or _SAY.search(question)
    if not found:
        return None
    number = int(found["number"])
    if number > MOST_TOKENS:
        return f"I go no further than {MOST_TOKENS} tokens."
    if found.re is _SAY:
        return _filler(number, rng)
    return " ".join(str(each) for each in range(1, number + 1))


_VOCABULARY = (
    "amber", "river", "stone", "quiet", "morning", "lantern", "copper", "garden", "window", "harbour", "silver",
    "meadow", "paper", "winter", "orchard", "bridge", "candle", "forest", "velvet", "market",
)  # fmt: skip


def _filler(words: int, rng: Random) -> str:
    """So many words of one token each."""
    return " ".join(rng.choices(_VOCABULARY, k=words))


def _echo(question: str) -> str:
    words = question.split()
    if not words:
        return "I am listening."
    return "You said: " + " ".join(words[:12]) + (" …" if len(words) > 12 else "")
