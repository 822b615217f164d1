"""Chunks of a streamed chat completion, as servers write them."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec


def chunk(delta: dict[str, Any] | None = None, finish_reason: str | None = None, **more: Any) -> bytes:
    """One chunk's JSON."""
    choice = {"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish_reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return msgspec.json.encode(head | {"choices": [choice]} | more)


def event(data: bytes) -> bytes:
    """One server-sent event."""
    return b"data: " + data + b"\n\n"


def usage(prompt: int, completion: int, cached: int | None = None) -> bytes:
    """The chunk that carries usage and nothing else."""
    details = None if cached is None else {"cached_tokens": cached}
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return chunk(choices=[], usage=counts | {"prompt_tokens_details": details})


def fragment(
    index: int | None, call_id: str | None = None, name: str | None = None, arguments: str | None = None
) -> dict[str, Any]:
    """Part of a tool call, with the fields that are given."""
    function = {"name": name, "arguments": arguments}
    fields = {"index": index, "id": call_id, "function": {key: value for key, value in function.items() if value}}
    return {key: value for key, value in fields.items() if value is not None}


def calls(*fragments: dict[str, Any]) -> bytes:
    return chunk({"tool_calls": list(fragments)})


DONE = event(b"[DONE]")


def body(words: Sequence[str] = ("It ", "is ", "42."), finish_reason: str = "stop") -> bytes:
    """A whole body that says these words."""
    pieces: Iterable[bytes] = (chunk({"content": word}) for word in words)
    return b"".join(map(event, (chunk({"role": "assistant", "content": ""}), *pieces, chunk({}, finish_reason)))) + DONE
