"""The model client against a server that misbehaves byte by byte."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
from support.chunks import DONE, body, chunk, event, usage
from support.hosting import until
from support.model_server import Exchange, Handler, serving

from troupe.chassis.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    TroupeError,
    Unavailable,
)
from troupe.dataplane.agent.conversation import ModelAnswer, TokenUsage, UserMessage
from troupe.dataplane.llm.client import LlmConnections
from troupe.dataplane.llm.endpoint import ModelEndpoint, ModelTimeouts
from troupe.dataplane.llm.errors import MAX_BODY
from troupe.dataplane.llm.request import ModelRequest
from troupe.dataplane.llm.timings import ModelTimings
from troupe.v1.turn_pb2 import LedgerCause

HELLO = ModelRequest("", (UserMessage("hello", "m1"),))


@pytest.fixture
async def connections() -> AsyncIterator[LlmConnections]:
    async with LlmConnections() as opened:
        yield opened


class Talk:
    """One call and everything that it gave."""

    def __init__(self, connections: LlmConnections, url: str, **endpoint: object) -> None:
        timeouts = ModelTimeouts(**endpoint.pop("timeouts", {}))  # type: ignore[arg-type]
        self.client = connections.client(ModelEndpoint(url, "sim", timeouts=timeouts, **endpoint))  # type: ignore[arg-type]
        self.text: list[str] = []
        self.timings = ModelTimings()
        self.shown = asyncio.Event()

    def on_text(self, text: str) -> None:
        self.text.append(text)
        self.shown.set()

    async def complete(self, request: ModelRequest = HELLO) -> ModelAnswer:
        async with asyncio.timeout(10):
            return await self.client.complete(request, self.on_text, self.timings)

    @property
    def causes(self) -> list[str]:
        return [LedgerCause.Name(interval.cause).removeprefix("LEDGER_CAUSE_") for interval in self.timings.intervals()]


async def says_so(exchange: Exchange) -> None:
    await exchange.send(body(), event(usage(1, 2)))


async def test_an_answer_comes_as_it_is_streamed(connections: LlmConnections) -> None:
    go_on = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await exchange.send(event(chunk({"content": "It "})))
        await go_on.wait()
        await exchange.send(event(chunk({"content": "is."}, "stop")), event(usage(5, 2, 4)), DONE)

    async with serving(handler) as server:
        talk = Talk(connections, server.url, api_key="sk-1")
        call = asyncio.create_task(talk.complete())
        await asyncio.wait_for(talk.shown.wait(), 10)
        assert talk.text == ["It "]
        go_on.set()
        assert await call == ModelAnswer("It is.", (), "stop", TokenUsage(5, 2, 4))

        (exchange,) = server.exchanges
        assert talk.text == ["It ", "is."]
        assert exchange.request.headers["Authorization"] == "Bearer sk-1"
        assert exchange.request.headers["Content-Type"] == "application/json"
        assert msgspec.json.decode(exchange.body)["model"] == "sim"


async def test_without_a_key_none_is_sent(connections: LlmConnections) -> None:
    async with serving(says_so) as server:
        await Talk(connections, server.url + "/").complete()
        assert "Authorization" not in server.exchanges[0].request.headers


async def test_the_time_of_a_call_is_accounted_for(connections: LlmConnections) -> None:
    async with serving(says_so) as server:
        first, second = Talk(connections, server.url), Talk(connections, server.url)
        await first.complete()
        await second.complete()
    assert first.causes == ["MODEL_QUEUE", "CONNECT", "MODEL_FIRST_TOKEN", "MODEL_STREAMING"]
    assert second.causes == ["MODEL_QUEUE", "MODEL_FIRST_TOKEN", "MODEL_STREAMING"]
    for talk in (first, second):
        edges = [edge for interval in talk.timings.intervals() for edge in (interval.start, interval.end)]
        assert edges == sorted(edges)


async def test_an_answer_does_not_wait_for_the_end_of_its_body_and_the_connection_is_used_again_after_it(
    connections: LlmConnections,
) -> None:
    answered = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await says_so(exchange)
        await answered.wait()

    def idle() -> bool:
        session = connections._session
        return session is not None and session.connector is not None and any(session.connector._conns.values())

    async with serving(handler) as server:
        for _ in range(3):
            await Talk(connections, server.url).complete()
            answered.set()
            await until(idle)
            answered.clear()
        assert len(server.connections) == 1


async def test_an_open_connection_that_the_server_closes_under_a_request_is_replaced_once(
    connections: LlmConnections,
) -> None:
    async def handler(exchange: Exchange) -> None:
        if len(server.exchanges) > 1 and len(server.connections) == 1:
            exchange.abort()
        else:
            await says_so(exchange)

    async with serving(handler) as server:
        for _ in range(2):
            assert (await Talk(connections, server.url).complete()).text == "It is 42."
        assert (len(server.exchanges), len(server.connections)) == (3, 2)


async def test_a_server_that_closes_every_connection_is_unreachable(connections: LlmConnections) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.abort()

    async with serving(handler) as server:
        with pytest.raises(Unavailable, match="does not answer") as raised:
            await Talk(connections, server.url).complete()
        assert raised.value.reason == "MODEL_UNREACHABLE"
        assert len(server.exchanges) == 1


async def test_a_server_that_keeps_the_connection_open_after_done_does_not_hold_up_the_answer(
    connections: LlmConnections,
) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send(body())
        await asyncio.sleep(60)

    async with serving(handler) as server:
        assert (await Talk(connections, server.url).complete()).text == "It is 42."
        await asyncio.wait_for(server.left.acquire(), 10)


async def test_an_unreachable_endpoint(connections: LlmConnections) -> None:
    async with serving(says_so) as server:
        url = server.url
    with pytest.raises(Unavailable, match=f"{url} does not answer .*check that it runs") as raised:
        await Talk(connections, url).complete()
    assert raised.value.reason == "MODEL_UNREACHABLE"
    assert raised.value.__cause__ is not None


async def test_a_name_that_does_not_exist(connections: LlmConnections) -> None:
    with pytest.raises(Unavailable, match=r"models\.invalid") as raised:
        await Talk(connections, "http://models.invalid/v1").complete()
    assert raised.value.reason == "MODEL_UNREACHABLE"


@pytest.mark.parametrize(
    "url", ["", "models:8000/v1", "ftp://models/v1", "http://", "http://models:port/v1", "http://["]
)
async def test_what_is_no_url_is_found_before_a_call(connections: LlmConnections, url: str) -> None:
    with pytest.raises(InvalidArgument, match="is no model endpoint"):
        connections.client(ModelEndpoint(url, "sim"))


async def test_a_rate_limit_says_when_to_come_back(connections: LlmConnections) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.refuse(429, b'{"error":{"message":"slow down"}}', Retry_After="1.5")

    async with serving(handler) as server:
        with pytest.raises(ResourceExhausted, match="answered 429: slow down") as raised:
            await Talk(connections, server.url).complete()
    assert (raised.value.reason, raised.value.retry_after) == ("MODEL_RATE_LIMITED", 1.5)


async def test_a_refusal_shows_what_the_server_said_and_not_the_key(connections: LlmConnections) -> None:
    async def handler(exchange: Exchange) -> None:
        said = {"error": {"message": f"bad key: {exchange.request.headers['Authorization']}"}}
        await exchange.refuse(401, msgspec.json.encode(said))

    async with serving(handler) as server:
        with pytest.raises(FailedPrecondition, match=r"answered 401: bad key: Bearer \*\*\*; check") as raised:
            await Talk(connections, server.url, api_key="sk-1").complete()
    assert raised.value.reason == "MODEL_REFUSED"


@pytest.mark.parametrize(
    ("status", "message"), [(500, "answered 500: xxx"), (200, "text/html instead of text/event-stream: xxx")]
)
async def test_an_endless_body_that_is_no_stream_is_read_in_part(
    connections: LlmConnections, status: int, message: str
) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.open("text/html", status)
        while True:
            await exchange.send(b"x" * MAX_BODY)

    async with serving(handler) as server:
        with pytest.raises(Unavailable, match=message):
            await Talk(connections, server.url).complete()
        await asyncio.wait_for(server.left.acquire(), 10)


async def test_a_redirect_is_not_followed(connections: LlmConnections) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.refuse(307, Location=f"{server.url}/chat/completions")

    async with serving(handler) as server:
        with pytest.raises(FailedPrecondition, match="answered 307"):
            await Talk(connections, server.url).complete()
        assert len(server.exchanges) == 1


def sends(*pieces: bytes, then: Callable[[Exchange], None] = lambda _: None) -> Handler:
    async def handler(exchange: Exchange) -> None:
        await exchange.send(*pieces)
        then(exchange)

    return handler


TOKEN = event(chunk({"content": "a"}))


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        pytest.param(sends(TOKEN), "MODEL_CUT", id="ends early"),
        pytest.param(sends(TOKEN, then=Exchange.abort), "MODEL_CUT", id="reset"),
        pytest.param(sends(TOKEN, b'data: {"choices":[{"del'), "MODEL_CUT", id="half an event"),
        pytest.param(sends(), "MODEL_CUT", id="an empty body"),
        pytest.param(sends(TOKEN, b'data: {"choices":[{"del\n\n'), "MODEL_GARBAGE", id="half a JSON"),
        pytest.param(sends(b"data: \x00\xff\n\n"), "MODEL_GARBAGE", id="bytes"),
        pytest.param(sends(event(b'{"error":{"message":"boom"}}')), "MODEL_ERROR", id="an error in the stream"),
        pytest.param(sends(event(b'{"error":{"code":429}}')), "MODEL_RATE_LIMITED", id="a limit in the stream"),
    ],
)
async def test_a_stream_that_fails(connections: LlmConnections, handler: Handler, reason: str) -> None:
    async with serving(handler) as server:
        talk = Talk(connections, server.url)
        with pytest.raises(TroupeError) as raised:
            await talk.complete()
    assert (raised.value.reason, raised.value.retryable) == (reason, True)
    assert raised.value.__cause__ is not None
    assert "".join(talk.text) in ("", "a")
    assert talk.timings.ended is not None


async def test_what_is_no_http_is_garbage(connections: LlmConnections) -> None:
    async def talk_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"220 mail ready\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk_nonsense, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        with pytest.raises(Unavailable, match="no chat completion") as raised:
            await Talk(connections, f"http://{host}:{port}/v1").complete()
    assert raised.value.reason == "MODEL_GARBAGE"


async def silent(exchange: Exchange) -> None:
    await asyncio.sleep(60)


async def opens_only(exchange: Exchange) -> None:
    await exchange.open()
    await asyncio.sleep(60)


async def stalls(exchange: Exchange) -> None:
    await exchange.send(TOKEN)
    await asyncio.sleep(60)


async def never_ends(exchange: Exchange) -> None:
    while True:
        await exchange.send(b": alive\n\n")
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("handler", "timeouts", "phase"),
    [
        (silent, {"first_token": 0.5}, "first_token"),
        (opens_only, {"first_token": 0.5}, "first_token"),
        (stalls, {"between_tokens": 0.5}, "between_tokens"),
        (never_ends, {"total": 0.5, "between_tokens": 5.0}, "total"),
        (silent, {"total": 0.5}, "total"),
    ],
)
async def test_patience_ends(
    connections: LlmConnections, handler: Handler, timeouts: dict[str, float], phase: str
) -> None:
    async with serving(handler) as server:
        with pytest.raises(DeadlineExceeded, match=rf"{server.url} took longer than 0\.\d+ s") as raised:
            await Talk(connections, server.url, timeouts=timeouts).complete()
        assert (raised.value.reason, raised.value.metadata) == ("MODEL_TIMEOUT", {"phase": phase})
        await asyncio.wait_for(server.left.acquire(), 10)


async def test_a_connection_that_never_opens_runs_out_of_time(connections: LlmConnections) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # takes the client's half of the TLS handshake and says nothing
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        talk = Talk(connections, f"https://{host}:{port}/v1", timeouts={"connect": 0.05})
        with pytest.raises(DeadlineExceeded, match="to connect"):
            await talk.complete()
    assert talk.causes == ["MODEL_QUEUE", "CONNECT"]


async def test_slow_tokens_are_waited_for(connections: LlmConnections) -> None:
    async def handler(exchange: Exchange) -> None:
        for _ in range(7):
            await exchange.send(TOKEN)
            await asyncio.sleep(0.35)
        await exchange.send(body(["."]))

    async with serving(handler) as server:
        talk = Talk(connections, server.url, timeouts={"first_token": 2.0, "between_tokens": 2.0})
        assert (await talk.complete()).text == "a" * 7 + "."


async def test_cancelling_closes_the_connection_at_once(connections: LlmConnections) -> None:
    async with serving(stalls) as server:
        talk = Talk(connections, server.url)
        call = asyncio.create_task(talk.complete())
        await asyncio.wait_for(talk.shown.wait(), 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(server.left.acquire(), 10)
    assert talk.causes[-1] == "MODEL_STREAMING"
    assert talk.timings.ended is not None


async def test_cancelling_before_the_answer_closes_the_connection_as_well(connections: LlmConnections) -> None:
    async with serving(silent) as server:
        call = asyncio.create_task(Talk(connections, server.url).complete())
        await asyncio.wait_for(server.asked.acquire(), 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(server.left.acquire(), 10)


async def test_calls_beyond_the_limit_wait_in_order(connections: LlmConnections) -> None:
    served: list[str] = []
    running, most, go_on = 0, 0, asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        served.append(msgspec.json.decode(exchange.body)["messages"][0]["content"])
        await go_on.wait()
        running -= 1
        await exchange.send(body())

    async with serving(handler) as server:
        talks = [Talk(connections, server.url, max_concurrency=2) for _ in range(6)]
        assert len({id(talk.client) for talk in talks}) == 1
        calls = []
        for number, talk in enumerate(talks):
            request = ModelRequest("", (UserMessage(str(number), "m"),))
            calls.append(asyncio.create_task(talk.complete(request)))
        for _ in range(2):
            await asyncio.wait_for(server.asked.acquire(), 10)
        calls[2].cancel()  # one that waits gives up its place in the queue
        go_on.set()
        await asyncio.gather(*calls[:2], *calls[3:])

    assert most == 2
    assert sorted(served[:2]) == ["0", "1"]
    assert sorted(served[2:]) == ["3", "4", "5"]
    assert talks[5].timings.intervals()[0].end >= talks[3].timings.intervals()[0].end


async def test_a_failed_call_gives_its_place_back(connections: LlmConnections) -> None:
    async with serving(sends(TOKEN)) as server:
        talk = Talk(connections, server.url, max_concurrency=1)
        for _ in range(3):
            with pytest.raises(Unavailable):
                await talk.complete()


async def test_equal_endpoints_share_a_client_until_nobody_holds_it(connections: LlmConnections) -> None:
    endpoint = ModelEndpoint("http://models/v1", "sim", api_key="a")
    client = connections.client(endpoint)
    assert connections.client(ModelEndpoint("http://models/v1", "sim", api_key="a")) is client
    assert connections.client(ModelEndpoint("http://models/v1", "sim", api_key="b")) is not client
    del client
    gc.collect()
    assert endpoint not in connections._clients
