"""What a model server is sent."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from support.conversations import histories, turns

from troupe.dataplane.agent.conversation import AssistantMessage, Entry, UserMessage
from troupe.dataplane.llm.request import ModelRequest, ToolDeclaration
from troupe.dataplane.tools.call import ToolCall, ToolMessage


def sent(request: ModelRequest) -> dict[str, Any]:
    return msgspec.json.decode(request.body("sim"), type=dict[str, Any])


def test_the_smallest_request() -> None:
    assert sent(ModelRequest("", (UserMessage("hello", "m1"),))) == {
        "model": "sim",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "hello"}],
    }


def test_everything_at_once() -> None:
    call = ToolCall("c1", "add", '{"a": 1}')
    conversation = (
        UserMessage("1 + 1?", "m1"),
        AssistantMessage("", "m1", (call,)),
        ToolMessage("c1", "add", "2", "m1"),
        AssistantMessage("2.", "m1"),
    )
    schema = msgspec.Raw(b'{"type":"object","properties":{"a":{"type":"integer"}}}')
    request = ModelRequest("Be exact.", conversation, (ToolDeclaration("add", "Adds.", schema),), 0.0, 64)
    assert sent(request) == {
        "model": "sim",
        "temperature": 0.0,
        "max_tokens": 64,
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "add",
                    "description": "Adds.",
                    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
                },
            }
        ],
        "messages": [
            {"role": "system", "content": "Be exact."},
            {"role": "user", "content": "1 + 1?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"type": "function", "id": "c1", "function": {"name": "add", "arguments": '{"a": 1}'}}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
            {"role": "assistant", "content": "2."},
        ],
    }


@pytest.mark.parametrize("written", ["", "{", "[1]", "no json", "[" * 10_000])
def test_arguments_that_are_no_object_are_not_sent_back(written: str) -> None:
    request = ModelRequest("", (AssistantMessage("", "m1", (ToolCall("c1", "add", written),)),))
    (message,) = sent(request)["messages"]
    assert message["tool_calls"][0]["function"]["arguments"] == "{}"


@given(histories, turns())
def test_a_conversation_that_grows_keeps_the_bytes_of_its_prefix(
    history: tuple[Entry, ...], more: tuple[Entry, ...]
) -> None:
    before, after = (ModelRequest("Be exact.", entries).body("sim") for entries in (history, history + more))
    assert before.endswith(b"]}")
    assert after.startswith(before.removesuffix(b"]}"))
