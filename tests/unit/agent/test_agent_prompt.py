"""What of a long conversation the model is shown."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from support.conversations import histories, texts

from troupe.dataplane.agent.conversation import AssistantMessage, Entry, UserMessage
from troupe.dataplane.agent.prompt import KEEP, PER_ENTRY, Window, tokens_of, tokens_of_entry
from troupe.dataplane.llm.request import ModelRequest
from troupe.dataplane.tools.call import ToolCall, ToolMessage


def turn(number: int, words: int = 30) -> tuple[Entry, ...]:
    name = f"m{number}"
    return (UserMessage("q" * words * 3, name), AssistantMessage("a" * words * 3, name))


def shown(window: Window, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    return entries[window.start :]


def test_a_token_is_three_bytes() -> None:
    assert [tokens_of(text) for text in ("", "a", "abc", "abcd", "你好", "\ud800")] == [0, 1, 1, 2, 2, 1]


def test_an_entry_counts_its_text_its_calls_and_its_frame() -> None:
    assert tokens_of_entry(UserMessage("abc", "m")) == PER_ENTRY + 1
    assert tokens_of_entry(ToolMessage("c", "t", "abc", "m")) == PER_ENTRY + 1
    call = ToolCall("c", "abc", "abcdef")
    assert tokens_of_entry(AssistantMessage("abc", "m", (call, call))) == PER_ENTRY + 1 + 2 * (PER_ENTRY + 1 + 2)


def test_a_conversation_within_its_budget_is_shown_whole() -> None:
    entries = turn(1) + turn(2)
    window = Window(budget=1000).extended(entries)
    assert (window.start, window.excess) == (0, 0)
    assert window.tokens == sum(map(tokens_of_entry, entries))


def test_the_oldest_turns_go_in_a_chunk_when_the_budget_is_exceeded() -> None:
    window, starts = Window(budget=1000), []
    for number in range(60):
        window = window.extended(turn(number))  # 68 tokens each
        starts.append(window.start // 2)
    cuts = [number for number, (before, after) in enumerate(pairwise(starts), 1) if before < after]
    assert all(later - earlier >= 3 for earlier, later in pairwise(cuts))
    assert window.tokens > 1000 * KEEP - 68


def test_what_is_always_there_counts() -> None:
    entries = tuple(entry for number in range(20) for entry in turn(number))
    assert Window(budget=1400).extended(entries).start == 0
    assert Window(budget=1400, fixed=100).extended(entries).start > 0


def test_a_newest_turn_that_does_not_fit_stays_and_is_reported() -> None:
    window = Window(budget=256).extended(turn(1) + turn(2, words=400))
    assert window.start == 2
    assert window.excess == 2 * (PER_ENTRY + 400) - 256


def test_between_two_cuts_a_request_grows_only_at_its_end() -> None:
    entries: tuple[Entry, ...] = ()
    window, requests = Window(budget=1000), []
    for number in range(40):
        entries += turn(number)
        window = window.extended(turn(number))
        body = ModelRequest("You are a clerk.", shown(window, entries)).body("m")
        requests.append((window.start, body.removesuffix(b"]}")))
    for (start, body), (next_start, next_body) in pairwise(requests):
        if start == next_start:
            assert next_body.startswith(body)


budgets = st.integers(20, 150)


@given(histories, budgets)
def test_turns_are_shown_whole_and_the_newest_always(history: tuple[Entry, ...], budget: int) -> None:
    window = Window(budget=budget).extended(history)
    kept = shown(window, history)
    if history:
        assert isinstance(kept[0], UserMessage)
        newest = max(index for index, entry in enumerate(history) if isinstance(entry, UserMessage))
        assert window.start <= newest
    asked = {call.call_id for entry in kept if isinstance(entry, AssistantMessage) for call in entry.tool_calls}
    assert all(entry.call_id in asked for entry in kept if isinstance(entry, ToolMessage))


@given(histories, budgets)
def test_the_budget_holds_unless_one_turn_alone_exceeds_it(history: tuple[Entry, ...], budget: int) -> None:
    window = Window(budget=budget).extended(history)
    assert window.tokens == sum(map(tokens_of_entry, shown(window, history)))
    if window.excess:
        assert sum(isinstance(entry, UserMessage) for entry in shown(window, history)) == 1
    else:
        assert window.tokens <= budget


@given(histories, budgets, st.data())
def test_the_window_does_not_depend_on_how_the_conversation_came(
    history: tuple[Entry, ...], budget: int, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(history)))
    window = Window(budget=budget)
    assert window.extended(history[:at]).extended(history[at:]) == window.extended(history)


@given(texts)
def test_the_estimate_never_falls_when_a_text_grows(text: str) -> None:
    assert tokens_of(text) <= tokens_of(text + "x") <= tokens_of(text) + 1
