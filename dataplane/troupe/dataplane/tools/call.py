"""One call of a tool and what it came to, as journals and histories keep them.

The tags and field names are what stores hold: a change to one needs an upcaster in `agent/history.py`.
"""

import hashlib

import msgspec
from msgspec import Struct


class ToolCall(Struct, frozen=True):
    """Somebody's wish to have a tool called. `call_id` is unique within the turn."""

    call_id: str
    tool: str
    arguments: str
    """JSON text, as a model wrote it or in its canonical form, not yet checked."""


class ToolMessage(Struct, frozen=True, tag="tool", omit_defaults=True):
    """What a call came to, as a model sees it. Failed: `content` is `CODE: why`."""

    call_id: str
    tool: str
    content: str
    message_id: str
    failed: bool = False
    json: bool = False
    """`content` is the JSON of what the tool returned; else it returned text."""


def call_digest(call: ToolCall) -> str:
    """SHA-256 of tool and arguments; the same for arguments that differ in key order and white space only."""
    try:
        arguments = msgspec.json.encode(msgspec.json.decode(call.arguments), order="sorted")
    except (msgspec.MsgspecError, RecursionError):
        arguments = call.arguments.encode()
    return hashlib.sha256(call.tool.encode() + b"\0" + arguments).hexdigest()
