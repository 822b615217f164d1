"""From the bytes of a stream to an answer."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.chunks import DONE, body, calls, chunk, event, fragment, usage

from troupe.dataplane.agent.conversation import ModelAnswer, TokenUsage
from troupe.dataplane.llm.stream import MAX_ANSWER, MAX_CALLS, AnswerStream, Cut, ErrorInStream, Garbage
from troupe.dataplane.tools.call import ToolCall


def answer_to(*pieces: bytes) -> ModelAnswer:
    stream = AnswerStream()
    text = "".join([stream.feed(piece) for piece in pieces])
    answer = stream.answer()
    assert text == answer.text
    return answer


def calls_of(*chunks: bytes) -> tuple[ToolCall, ...]:
    return answer_to(*map(event, chunks), event(chunk(finish_reason="tool_calls"))).tool_calls


def test_text_comes_as_it_is_received() -> None:
    stream = AnswerStream()
    received = (
        event(chunk({"role": "assistant", "content": ""})),
        event(chunk({"content": "It "})) + event(chunk({"content": "is "})),
        event(chunk({"content": "42."})),
        event(chunk({}, "stop")) + event(usage(10, 3, 8)),
        DONE,
    )
    assert [(stream.feed(piece), stream.started, stream.done) for piece in received] == [
        ("", False, False),
        ("It is ", True, False),
        ("42.", True, False),
        ("", True, False),
        ("", True, True),
    ]
    assert stream.answer() == ModelAnswer("It is 42.", (), "stop", TokenUsage(10, 3, 8))


def test_a_call_comes_in_fragments() -> None:
    received = calls_of(
        calls(fragment(0, "c1", "calculator", "")),
        calls(fragment(0, arguments='{"expre')),
        calls(fragment(0, arguments='ssion": "6*7"}')),
    )
    assert received == (ToolCall("c1", "calculator", '{"expression": "6*7"}'),)


def test_fragments_of_several_calls_interleave() -> None:
    received = calls_of(
        calls(fragment(0, "c1", "add"), fragment(1, "c2", "mul")),
        calls(fragment(1, arguments="[1"), fragment(0, arguments="{")),
        calls(fragment(0, arguments="}")),
        calls(fragment(1, arguments="]")),
    )
    assert received == (ToolCall("c1", "add", "{}"), ToolCall("c2", "mul", "[1]"))


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([calls(fragment(0, "a", "add", "{}"), fragment(1, "b", "mul", "[]"))], id="whole, in one chunk"),
        pytest.param([calls(fragment(0, "a", "add", "{}")), calls(fragment(0, "b", "mul", "[]"))], id="all index 0"),
        pytest.param([calls(fragment(None, "a", "add", "{}")), calls(fragment(None, "b", "mul", "[]"))], id="no index"),
        pytest.param(
            [
                calls(fragment(None, "a", "add")),
                calls(fragment(None, "b", "mul")),
                calls(fragment(None, "a", None, "{}")),
                calls(fragment(None, "b", None, "[]")),
            ],
            id="by id only",
        ),
        pytest.param(
            [
                calls(fragment(0, "a", "add", "{")),
                calls(fragment(0, "a", "add", "}")),
                calls(fragment(1, "b", "mul", "[]")),
            ],
            id="id and name in each fragment",
        ),
    ],
)
def test_servers_differ(chunks: list[bytes]) -> None:
    assert calls_of(*chunks) == (ToolCall("a", "add", "{}"), ToolCall("b", "mul", "[]"))


def test_calls_without_index_and_id_begin_with_their_name() -> None:
    received = calls_of(
        calls(fragment(None, None, "add", "{")),
        calls(fragment(None, None, None, "}")),
        calls(fragment(None, None, "mul", "[]")),
    )
    assert received == (ToolCall("", "add", "{}"), ToolCall("", "mul", "[]"))


def test_usage_may_come_with_the_last_chunk_or_with_each() -> None:
    counts = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
    first = event(chunk({"content": "a"}, usage=counts))
    last = event(chunk({"content": "b"}, "stop", usage=counts | {"completion_tokens": 2}))
    assert answer_to(first, last).usage == TokenUsage(5, 2, 0)
    assert answer_to(event(chunk({"content": "a"}, "stop", usage=None))).usage == TokenUsage()


def test_an_answer_is_complete_without_done() -> None:
    assert answer_to(event(chunk({"content": "a"}, "stop"))).text == "a"


def test_what_comes_after_done_is_nothing() -> None:
    assert answer_to(body(["a"]), event(chunk({"content": "b"})), b"data: what?\n\n").text == "a"


def test_a_refusal_is_text() -> None:
    assert answer_to(event(chunk({"refusal": "I will not."}, "stop"))).text == "I will not."


def test_a_token_of_thought_is_a_token_and_no_text() -> None:
    stream = AnswerStream()
    assert stream.feed(event(chunk({"reasoning_content": "Hm."}))) == ""
    assert stream.started


@pytest.mark.parametrize("keepalive", [b"\n\n", b": PROCESSING\n\n", b"data:\n\n", b"event: ping\ndata: \n\n", b"\r\n"])
def test_keepalives_are_nothing(keepalive: bytes) -> None:
    first, rest = event(chunk({"content": "a"})), event(chunk({"content": "b"}, "stop"))
    assert answer_to(keepalive, first, keepalive, rest, b"data:[DONE]\n\n", keepalive).text == "ab"


def test_a_chunk_may_span_lines() -> None:
    spread = msgspec.json.format(chunk({"content": "a"}, "stop"), indent=1)
    assert answer_to(b"".join(b"data: " + line + b"\n" for line in spread.splitlines()) + b"\n").text == "a"


def test_unknown_fields_and_nulls_are_ignored() -> None:
    delta = b'{"content":null,"tool_calls":null,"x":1}'
    odd = b'{"choices":[{"delta":' + delta + b',"finish_reason":null}],"usage":null,"error":null}'
    assert answer_to(event(odd), event(b'{"choices":null}'), event(chunk({"content": "a"}, "stop"))).text == "a"


@pytest.mark.parametrize(
    "garbage",
    [b"what?", b'{"choices":', b"[]", b'{"choices":[{"delta":{"content":5}}]}', b'"\xff"', b"[" * 10_000, b"null"],
)
def test_garbage_is_named(garbage: bytes) -> None:
    with pytest.raises(Garbage) as raised:
        AnswerStream().feed(event(garbage))
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    "received", [b"", body()[:-60], event(chunk({"content": "a"})), b'data: {"choices":[{"del', DONE]
)
def test_an_answer_without_a_finish_reason_was_cut(received: bytes) -> None:
    stream = AnswerStream()
    stream.feed(received)
    with pytest.raises(Cut):
        stream.answer()


@pytest.mark.parametrize(
    ("data", "message", "code"),
    [
        (b'{"error":{"message":"too much","type":"x","code":429}}', "too much", 429),
        (b'{"error":{"message":"too much","code":"429"}}', "too much", 429),
        (b'{"error":{"message":"boom","code":"internal"}}', "boom", 0),
        (b'{"error":{"message":null,"code":null}}', "the server reported an error", 0),
        (b'{"error":"boom"}', "boom", 0),
        (b'{"object":"error","message":"too long","code":400}', "too long", 400),
    ],
)
def test_an_error_may_come_in_the_stream(data: bytes, message: str, code: int) -> None:
    stream = AnswerStream()
    stream.feed(event(chunk({"content": "a"})))
    with pytest.raises(ErrorInStream, match=message) as raised:
        stream.feed(event(data))
    assert raised.value.code == code


def test_an_answer_has_a_size_that_it_cannot_exceed() -> None:
    stream, piece = AnswerStream(), event(chunk({"content": "x" * 65536}))
    for _ in range(MAX_ANSWER // 65536):
        stream.feed(piece)
    with pytest.raises(Garbage, match="more than"):
        stream.feed(piece)


def test_an_answer_has_a_number_of_calls_that_it_cannot_exceed() -> None:
    with pytest.raises(Garbage, match=f"more than {MAX_CALLS} tool calls"):
        AnswerStream().feed(event(calls(*(fragment(index, name="t") for index in range(MAX_CALLS + 1)))))


def test_a_call_without_a_name_is_garbage() -> None:
    with pytest.raises(Garbage, match="without a name"):
        calls_of(calls(fragment(0, "c1", None, "{}")))


words = st.text(st.characters(codec="utf-8"), max_size=8)
fragments = st.builds(fragment, st.integers(0, 3), st.none(), st.sampled_from(["add", "mul"]), words)
deltas = st.one_of(
    words.map(lambda word: chunk({"content": word})), st.lists(fragments, max_size=3).map(lambda f: calls(*f))
)
endings = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(st.lists(deltas, max_size=8), endings, st.booleans(), st.lists(st.integers(0, 2000)))
def test_any_split_of_the_bytes_gives_the_same_answer(
    chunks: list[bytes], end: bytes, comments: bool, cuts: list[int]
) -> None:
    between = b": alive" + end * 2 if comments else b""
    several = (*chunks, chunk(finish_reason="stop"), usage(9, 4, 1), b"[DONE]")
    received = b"".join(b"data: " + data + end * 2 + between for data in several)
    places = [0, *sorted(cut for cut in cuts if cut < len(received)), len(received)]
    pieces = [received[start:stop] for start, stop in pairwise(places)]
    whole = answer_to(received)
    assert answer_to(*pieces) == whole
    assert answer_to(*(received[at : at + 1] for at in range(len(received)))) == whole
    assert whole.usage == TokenUsage(9, 4, 1)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_one_of_three_errors(received: bytes) -> None:
    stream = AnswerStream()
    try:
        stream.feed(received)
        stream.feed(event(received.replace(b"\n", b" ")))
        stream.answer()
    except (Garbage, ErrorInStream, Cut):
        pass
