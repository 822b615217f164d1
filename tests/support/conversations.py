"""Hypothesis strategies for conversations and what models answer."""

from hypothesis import strategies as st

from troupe.dataplane.agent.conversation import AssistantMessage, Entry, ModelAnswer, TokenUsage, UserMessage
from troupe.dataplane.tools.call import ToolCall, ToolMessage

texts = st.text(st.characters(codec="utf-8"), max_size=20)

calls = st.builds(
    ToolCall,
    call_id=st.sampled_from(["", "a", "b", "call-0-0", "call-0-1", "call-1-0", "x" * 200]),
    tool=st.sampled_from(["calculator", "weather"]),
    arguments=st.sampled_from(["{}", '{"x": 1}', '{"x":1}', '{"y": 2}', "no json", ""]),
)

usages = st.builds(TokenUsage, st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))

answers = st.builds(
    ModelAnswer,
    text=st.one_of(st.just(""), st.just(" "), texts),
    tool_calls=st.lists(calls, max_size=4).map(tuple),
    finish_reason=st.sampled_from(["stop", "stop", "tool_calls", "length", "content_filter", "eos"]),
    usage=usages,
)


@st.composite
def turns(draw: st.DrawFn, message_id: str = "m") -> tuple[Entry, ...]:
    """One finished turn: a message, steps of calls with their results, an answer."""
    entries: list[Entry] = [UserMessage(draw(texts), message_id)]
    for step in range(draw(st.integers(0, 3))):
        asked = tuple(ToolCall(f"c{step}-{index}", "t", draw(texts)) for index in range(draw(st.integers(1, 3))))
        entries.append(AssistantMessage(draw(texts), message_id, asked))
        entries += [ToolMessage(call.call_id, call.tool, draw(texts), message_id) for call in asked]
    entries.append(AssistantMessage(draw(texts), message_id))
    return tuple(entries)


histories = st.lists(turns(), max_size=6).map(lambda several: tuple(entry for turn in several for entry in turn))
