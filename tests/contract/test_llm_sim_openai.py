"""The simulator speaks the real protocol: the official client understands it, also when it fails."""

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletionChunk

from troupe.chassis.settings import SecretStr
from troupe.llm_sim.process import running
from troupe.llm_sim.settings import LlmSimSettings

CALCULATOR: Any = {
    "type": "function",
    "function": {
        "name": "calculator",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
        },
    },
}


@pytest.fixture
async def client() -> AsyncIterator[AsyncOpenAI]:
    settings = LlmSimSettings(listen="127.0.0.1:0", ttft="0.001", per_token="0", api_key=SecretStr("open sesame"))
    async with running(settings) as simulator, _client(simulator.url) as client:
        yield client


def _client(url: str, key: str = "open sesame") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=10)


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


def faulty(kind: str, **fields: Any) -> Any:
    return {"sim": {"fault": {"kind": kind} | fields}}


async def test_models_are_listed_and_found(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["sim"]
    assert (await client.models.retrieve("sim")).id == "sim"


async def test_a_whole_answer_with_its_usage(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="sim", messages=user("count to 5"))

    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content == "1 2 3 4 5"
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5


async def test_a_stream_has_one_chunk_for_each_token_and_usage_when_asked(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="sim", messages=user("count to 5"), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]

    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in chunks[1:6]] == ["1", " 2", " 3", " 4", " 5"]
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [*[None] * 6, "stop"]
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * 7
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 5


async def test_a_stream_says_nothing_of_usage_unless_asked(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="sim", messages=user("count to 5"), stream=True)

    assert ["usage" in chunk.model_fields_set for chunk in [each async for each in stream]] == [False] * 7


async def test_a_conversation_with_a_tool(client: AsyncOpenAI) -> None:
    messages = user("What is 123456789 times 987654321?")

    asked = await client.chat.completions.create(model="sim", messages=messages, tools=[CALCULATOR])
    choice = asked.choices[0]

    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls
    [call] = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "calculator",
        {"expression": "123456789 * 987654321"},
    )

    messages += [
        choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "121932631112635269"},
    ]
    told = await client.chat.completions.create(model="sim", messages=messages, tools=[CALCULATOR])

    assert told.choices[0].message.content == "123456789 * 987654321 = 121932631112635269."


async def test_parallel_calls_in_a_stream(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model="sim", messages=user("2+2 and 3*3"), tools=[CALCULATOR]) as stream:
        completion = await stream.get_final_completion()

    calls = completion.choices[0].message.tool_calls or []
    assert [json.loads(call.function.arguments) for call in calls] == [
        {"expression": "2 + 2"},
        {"expression": "3 * 3"},
    ]
    assert len({call.id for call in calls}) == 2
    assert completion.choices[0].finish_reason == "tool_calls"


async def test_tool_choice(client: AsyncOpenAI) -> None:
    create = client.chat.completions.create

    none = await create(model="sim", messages=user("2+2"), tools=[CALCULATOR], tool_choice="none")
    required = await create(model="sim", messages=user("hello"), tools=[CALCULATOR], tool_choice="required")
    named = await create(
        model="sim",
        messages=user("hello"),
        tools=[CALCULATOR],
        tool_choice={"type": "function", "function": {"name": "calculator"}},
    )

    assert not none.choices[0].message.tool_calls
    assert required.choices[0].message.tool_calls
    assert named.choices[0].message.tool_calls


async def test_max_tokens_and_stop(client: AsyncOpenAI) -> None:
    create = client.chat.completions.create

    long = await create(model="sim", messages=user("count to 50"), max_tokens=3)
    longer = await create(model="sim", messages=user("count to 50"), max_completion_tokens=4)
    stopped = await create(model="sim", messages=user("count to 50"), stop=[" 7", " 5"])

    assert (long.choices[0].message.content, long.choices[0].finish_reason) == ("1 2 3", "length")
    assert (longer.choices[0].message.content, longer.choices[0].finish_reason) == ("1 2 3 4", "length")
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("1 2 3 4", "stop")


async def test_the_beginning_of_a_conversation_comes_from_the_cache(client: AsyncOpenAI) -> None:
    messages = user("say 40 words")
    first = await client.chat.completions.create(model="sim", messages=messages)
    messages += [{"role": "assistant", "content": first.choices[0].message.content}, *user("and now?")]

    second = await client.chat.completions.create(model="sim", messages=messages)

    assert first.usage
    assert first.usage.prompt_tokens_details
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert second.usage
    assert second.usage.prompt_tokens_details
    cached = second.usage.prompt_tokens_details.cached_tokens or 0
    assert first.usage.total_tokens - 16 <= cached < second.usage.prompt_tokens


async def test_an_answer_repeats_and_its_ids_tell_calls_apart(client: AsyncOpenAI) -> None:
    async def call_id(text: str) -> str:
        answer = await client.chat.completions.create(model="sim", messages=user(text), tools=[CALCULATOR])
        return (answer.choices[0].message.tool_calls or [])[0].id

    assert await call_id("2+2") == await call_id("2+2")
    assert await call_id("2+2") != await call_id("2+3")


async def test_a_wrong_key(client: AsyncOpenAI) -> None:
    async with _client(str(client.base_url), key="wrong") as stranger:
        with pytest.raises(openai.AuthenticationError) as caught:
            await stranger.models.list()

    assert caught.value.code == "invalid_api_key"


async def test_an_unknown_model(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'gpt' does not exist") as caught:
        await client.chat.completions.create(model="gpt", messages=user("hello"))

    assert caught.value.code == "model_not_found"


async def test_a_bad_request(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="sim", messages=user("hello"), tool_choice="auto")

    assert (caught.value.type, caught.value.param) == ("invalid_request_error", "tool_choice")


async def test_an_unknown_path(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="Invalid URL"):
        await client.embeddings.create(model="sim", input="hello")


async def test_a_rate_limit_says_when_to_come_back(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(
            model="sim", messages=user("hello"), extra_body=faulty("429", retry_after=1.5)
        )

    assert caught.value.response.headers["retry-after"] == "2"
    assert caught.value.response.headers["retry-after-ms"] == "1500"
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.request_id


async def test_the_client_comes_back_by_itself_after_a_rate_limit(client: AsyncOpenAI) -> None:
    await client.post("/../sim/faults", body={"kind": "429", "count": 2, "retry_after": 0.001}, cast_to=object)

    answer = await client.with_options(max_retries=2).chat.completions.create(model="sim", messages=user("hello"))

    assert answer.choices[0].message.content == "You said: hello"


@pytest.mark.parametrize("status", [500, 503])
async def test_server_errors(client: AsyncOpenAI, status: int) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(model="sim", messages=user("hello"), extra_body=faulty(str(status)))

    assert caught.value.status_code == status
    assert caught.value.type == "server_error"


async def test_a_fault_can_come_in_a_header(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(
            model="sim", messages=user("hello"), extra_headers={"x-sim": '{"fault": {"kind": "500"}}'}
        )


async def test_a_cut_stream_breaks_after_its_tokens(client: AsyncOpenAI) -> None:
    stream = await _counting(client, faulty("cut", after=2))
    seen: list[str] = []

    with pytest.raises(openai.APIConnectionError):
        await _collect(stream, seen)

    assert seen == ["1", " 2"]


async def test_a_cut_body_is_no_answer(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.APIConnectionError):
        await client.chat.completions.create(model="sim", messages=user("hello"), extra_body=faulty("cut"))


async def test_garbage_in_a_stream_cannot_be_read(client: AsyncOpenAI) -> None:
    stream = await _counting(client, faulty("garbage", after=2))
    seen: list[str] = []

    with pytest.raises(ValueError):
        await _collect(stream, seen)

    assert seen == ["1", " 2"]


async def test_half_a_stream_ends_without_a_reason(client: AsyncOpenAI) -> None:
    stream = await _counting(client, faulty("half", after=2))

    chunks = [chunk async for chunk in stream]

    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "1", " 2"]
    assert all(chunk.choices[0].finish_reason is None for chunk in chunks)


async def test_silence_lasts_until_the_client_has_enough(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        await client.with_options(timeout=0.2).chat.completions.create(
            model="sim", messages=user("hello"), extra_body=faulty("silence")
        )


async def test_a_stall_comes_after_its_tokens(client: AsyncOpenAI) -> None:
    stream = await _counting(client.with_options(timeout=2.0), faulty("stall", after=2))
    seen: list[str] = []

    with pytest.raises(openai.APITimeoutError):
        await _collect(stream, seen)

    assert seen == ["1", " 2"]


async def _counting(client: AsyncOpenAI, extra: Any) -> AsyncStream[ChatCompletionChunk]:
    return await client.chat.completions.create(model="sim", messages=user("count to 5"), stream=True, extra_body=extra)


async def _collect(stream: AsyncStream[ChatCompletionChunk], seen: list[str]) -> None:
    async for chunk in stream:
        if content := chunk.choices[0].delta.content:
            seen.append(content)
