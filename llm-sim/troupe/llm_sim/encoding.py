"""Completions as bytes: one JSON body, or server-sent events with one chunk for each token.

All of a chunk but its token is the same for the whole stream and encoded once, so that a token costs one short string.
"""

from dataclasses import dataclass

import msgspec

from troupe.llm_sim.completion import CallArgument, CallOpening, Completion, FinishReason, Piece, Word

DONE = b"data: [DONE]\n\n"
"""The last event of a whole stream."""

_json = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request; `cached` of the prompt's were found in the prefix cache."""

    prompt: int
    cached: int
    completion: int

    def fields(self) -> dict[str, object]:
        """As the protocol names them."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


@dataclass(frozen=True, slots=True)
class Head:
    """What is said at the top of every body and chunk. `created` is in seconds since the epoch."""

    id: str
    model: str
    created: int

    def fields(self, kind: str) -> dict[str, object]:
        """As the protocol names them."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def body(head: Head, completion: Completion, usage: Usage) -> bytes:
    """The answer of a request that does not stream."""
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in completion.calls
    ]
    message = {"role": "assistant", "content": completion.text or (None if calls else ""), "refusal": None}
    choice = {
        "index": 0,
        "message": message | ({"tool_calls": calls} if calls else {}),
        "logprobs": None,
        "finish_reason": completion.finish_reason,
    }
    return _json.encode(head.fields("chat.completion") | {"choices": [choice], "usage": usage.fields()})


class ChunkEncoder:
    """The events of one stream. With `counts`, all but the last say `"usage":null`, as the protocol has it."""

    def __init__(self, head: Head, *, counts: bool) -> None:
        self._head = head
        self._counts = counts
        before, after = self._event({"content": ""}).split(b'"content":""')
        self._before = before + b'"content":'
        self._after = after

    def opening(self) -> bytes:
        """The first event: who speaks."""
        return self._event({"role": "assistant", "content": ""})

    def piece(self, piece: Piece) -> bytes:
        """The event of one token."""
        match piece:
            case Word(token=token):
                return self._before + _json.encode(token) + self._after
            case CallOpening(index=index, id=call, name=name):
                function = {"name": name, "arguments": ""}
                return self._event(
                    {"tool_calls": [{"index": index, "id": call, "type": "function", "function": function}]}
                )
            case CallArgument(index=index, token=token):
                return self._event({"tool_calls": [{"index": index, "function": {"arguments": token}}]})

    def finish(self, reason: FinishReason) -> bytes:
        """The event that ends the choice."""
        return self._event({}, reason)

    def usage(self, usage: Usage) -> bytes:
        """The event with the counts, the last before DONE; it has no choices."""
        return self._framed({"choices": [], "usage": usage.fields()})

    def _event(self, delta: dict[str, object], reason: FinishReason | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._framed({"choices": [choice]} | ({"usage": None} if self._counts else {}))

    def _framed(self, fields: dict[str, object]) -> bytes:
        return b"data: " + _json.encode(self._head.fields("chat.completion.chunk") | fields) + b"\n\n"
