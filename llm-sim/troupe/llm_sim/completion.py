"""An answer in tokens: what goes out one by one, cut where max_tokens and stop say."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from troupe.llm_sim.rules import Answer, Call
from troupe.llm_sim.tokens import tokenize


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True)
class Word:
    """A token of the text."""

    token: str


@dataclass(frozen=True, slots=True)
class CallOpening:
    """The begin of a tool call: its id and name, one token."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArgument:
    """A token of the arguments of the call that opened last."""

    index: int
    token: str


Piece = Word | CallOpening | CallArgument


@dataclass(frozen=True, slots=True)
class Completion:
    """Each piece is one token. A cut in the middle of a call's arguments leaves what is no JSON, as real models do."""

    pieces: tuple[Piece, ...]
    finish_reason: FinishReason

    @property
    def text(self) -> str:
        """The words, joined."""
        return "".join(piece.token for piece in self.pieces if isinstance(piece, Word))

    @property
    def calls(self) -> list[Call]:
        """The calls, as far as they got."""
        openings = [piece for piece in self.pieces if isinstance(piece, CallOpening)]
        arguments: list[list[str]] = [[] for _ in openings]
        for piece in self.pieces:
            if isinstance(piece, CallArgument):
                arguments[piece.index].append(piece.token)
        return [
            Call(opening.id, opening.name, "".join(tokens)) for opening, tokens in zip(openings, arguments, strict=True)
        ]


def complete(answer: Answer, limit: int | None, stops: Sequence[str]) -> Completion:
    """At most `limit` tokens (None is all), and the text only up to the first of `stops`, which is left out."""
    text, stopped = _before(answer.text, stops)
    pieces: list[Piece] = [Word(token) for token in tokenize(text)]
    for index, call in enumerate(() if stopped else answer.calls):
        pieces.append(CallOpening(index, call.id, call.name))
        pieces += [CallArgument(index, token) for token in tokenize(call.arguments)]
    kept = tuple(islice(pieces, limit))
    if len(kept) < len(pieces):
        return Completion(kept, FinishReason.LENGTH)
    return Completion(kept, FinishReason.TOOL_CALLS if answer.calls and not stopped else FinishReason.STOP)


def _before(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)
