"""Bad requests are refused as OpenAI refuses them: with the field, a code and a sentence."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.llm_sim.checks import check
from troupe.llm_sim.errors import ApiError
from troupe.llm_sim.protocol import ChatRequest, decode

HELLO = [{"role": "user", "content": "hello"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
CALL = {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}
RESULT = {"role": "tool", "tool_call_id": "c", "content": "1"}


def request(**fields: Any) -> bytes:
    return json.dumps({"model": "sim", "messages": HELLO} | fields).encode()


def read(body: bytes) -> ChatRequest:
    decoded = decode(body)
    check(decoded)
    return decoded


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b"", None, None),
        (b"{", None, None),
        (b"\xff", None, None),
        (b"[]", None, "invalid_type"),
        (b"{}", "model", "missing_required_parameter"),
        (b'{"model": "sim"}', "messages", "missing_required_parameter"),
        (request(model=1), "model", "invalid_type"),
        (request(messages=[]), "messages", "invalid_value"),
        (request(messages=[{"content": "x"}]), "messages[0].role", "missing_required_parameter"),
        (request(messages=[{"role": "boss", "content": "x"}]), "messages[0].role", "invalid_value"),
        (request(messages=[{"role": "user", "content": 7}]), "messages[0].content", "invalid_type"),
        (request(messages=[{"role": "assistant"}]), "messages[0].content", None),
        (request(messages=[*HELLO, RESULT]), "messages[1].tool_call_id", None),
        (request(messages=[*HELLO, CALL]), "messages", None),
        (request(messages=[*HELLO, CALL, *HELLO]), "messages[2]", None),
        (request(messages=[*HELLO, CALL, RESULT, RESULT]), "messages[3].tool_call_id", None),
        (request(max_tokens=0), "max_tokens", "invalid_value"),
        (request(max_tokens="7"), "max_tokens", "invalid_type"),
        (request(temperature=3), "temperature", "invalid_value"),
        (request(stop=["a", "b", "c", "d", "e"]), "stop", "invalid_value"),
        (request(n=2), "n", "unsupported_value"),
        (request(logprobs=True), "logprobs", "unsupported_value"),
        (request(response_format={"type": "json_object"}), "response_format.type", "unsupported_value"),
        (request(stream_options={"include_usage": True}), "stream_options", None),
        (request(tool_choice="auto"), "tool_choice", None),
        (request(parallel_tool_calls=True), "parallel_tool_calls", None),
        (request(tools=[]), "tools", "invalid_value"),
        (request(tools=TOOLS, tool_choice="maybe"), "tool_choice", "invalid_value"),
        (
            request(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "g"}}),
            "tool_choice",
            "invalid_value",
        ),
        (
            request(tools=[{"type": "function", "function": {"name": "a b"}}]),
            "tools[0].function.name",
            "invalid_value",
        ),
        (request(sim={"tokns": 1}), "sim", "invalid_value"),
        (request(sim={"ttft": "soon"}), "sim", "invalid_value"),
        (request(sim={"fault": {"kind": "boom"}}), "sim.fault.kind", "invalid_value"),
    ],
)
def test_a_bad_request_is_refused_where_it_is_bad(body: bytes, param: str | None, code: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        read(body)

    assert (caught.value.status, caught.value.type) == (400, "invalid_request_error")
    assert (caught.value.param, caught.value.code) == (param, code)
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": True, "stream_options": {"include_usage": True}},
        {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False},
        {"messages": [*HELLO, CALL, RESULT, *HELLO]},
        {
            "messages": [
                {"role": "system", "content": [{"type": "text", "text": "x"}]},
                {"role": "developer", "content": ""},
            ]
        },
        {"temperature": 0, "top_p": 1, "user": "me", "metadata": {"a": "b"}, "response_format": {"type": "text"}},
        {"tool_choice": "none", "n": 1, "stop": "x", "seed": 7, "max_completion_tokens": 5},
        {"stream": None, "tools": None, "stop": None, "max_tokens": None},
    ],
)
def test_good_requests_pass(fields: dict[str, Any]) -> None:
    assert read(request(**fields)).model == "sim"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda parts: st.lists(parts) | st.dictionaries(st.sampled_from(list(ChatRequest.__struct_fields__)), parts),
)


@given(JSON)
def test_no_json_is_too_strange(value: Any) -> None:
    with contextlib.suppress(ApiError):
        read(json.dumps(value).encode())
