"""Chat completions over HTTP/1.1, always streamed. The one module that knows aiohttp."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace, TracebackType
from typing import Final, Self
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import aiohttp

from troupe.chassis import tracing
from troupe.chassis.errors import InvalidArgument
from troupe.dataplane.agent.conversation import ModelAnswer
from troupe.dataplane.llm import errors
from troupe.dataplane.llm.endpoint import ModelEndpoint
from troupe.dataplane.llm.patience import BETWEEN_TOKENS, CONNECT, FIRST_TOKEN, Patience
from troupe.dataplane.llm.request import ModelRequest
from troupe.dataplane.llm.stream import AnswerStream, Cut, ErrorInStream, Garbage
from troupe.dataplane.llm.timings import ModelTimings

KEEP_ALIVE: Final = 60.0
"""Seconds that an idle connection stays open."""
DNS_CACHE: Final = 30
"""Seconds that a name's addresses are remembered."""
TRAILER: Final = 0.25
"""Seconds that a connection has, after an answer is complete, for the end of its body, to be used again."""
ERROR_BODY: Final = 2.0
"""Seconds to wait for what a refusal says."""


class LlmConnections:
    """The HTTP connections of one worker to all its model endpoints. An async context manager; leaving it closes them.

    Proxy settings of the environment are not looked at, redirects are not followed, cookies are not kept: an API key
    goes to the endpoint that it was declared for and nowhere else."""

    def __init__(self) -> None:
        self._clients: WeakValueDictionary[ModelEndpoint, ModelClient] = WeakValueDictionary()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE, ttl_dns_cache=DNS_CACHE),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(),  # none: Patience keeps them
            trace_configs=[_tracing()],
            headers={"User-Agent": "troupe", "Accept": "text/event-stream", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    def client(self, endpoint: ModelEndpoint) -> "ModelClient":
        """The client of an endpoint; the same one for an equal endpoint while anybody holds it, so that its limit holds
        across revisions. Raises InvalidArgument BAD_MODEL_URL."""
        client = self._clients.get(endpoint)
        if client is None:
            if self._session is None:
                raise RuntimeError("LlmConnections is entered before it is used")
            client = self._clients[endpoint] = ModelClient(endpoint, self._session)
        return client


class ModelClient:
    """Calls one model at one endpoint, at most `max_concurrency` at once; the others wait, first in, first out."""

    def __init__(self, endpoint: ModelEndpoint, session: aiohttp.ClientSession) -> None:
        self.endpoint = endpoint
        self._url = _chat_completions(endpoint.base_url)
        self._session = session
        self._places = asyncio.Semaphore(endpoint.max_concurrency)
        self._headers = {"Content-Type": "application/json"}
        if endpoint.api_key:
            self._headers["Authorization"] = f"Bearer {endpoint.api_key}"

    async def complete(
        self, request: ModelRequest, on_text: Callable[[str], None], timings: ModelTimings
    ) -> ModelAnswer:
        """The model's complete answer; `on_text` gets its text as it comes, from this task, in order, never empty.

        Nothing is tried again here, with one exception: an open connection that the server closed under the request is
        replaced once. Cancelling closes the connection at once. `timings` is filled in any case. Raises Unavailable
        (MODEL_UNREACHABLE, MODEL_ERROR, MODEL_GARBAGE, MODEL_CUT), ResourceExhausted (MODEL_RATE_LIMITED),
        DeadlineExceeded (MODEL_TIMEOUT) and FailedPrecondition (MODEL_REFUSED), the library's error as their cause."""
        timings.mark("queued")
        try:
            async with self._places:
                timings.mark("admitted")
                body = request.body(self.endpoint.model)
                return await self._call(_Call(body, on_text, timings, Patience(self.endpoint.timeouts)))
        finally:
            timings.mark("ended")

    async def _call(self, call: "_Call") -> ModelAnswer:
        patience = call.patience
        try:
            async with patience:
                try:
                    return await self._exchange(call)
                except _Stale:
                    patience.enter(CONNECT)
                    return await self._exchange(call)
        except TimeoutError as error:
            if patience.expired is None:
                raise
            raise errors.timed_out(self.endpoint, *patience.expired) from error

    def _traced(self) -> dict[str, str]:
        """The headers, with the current trace context where there is one."""
        carrier = tracing.carrier()
        present = {name: value for name, value in carrier._asdict().items() if value}
        return self._headers | present if present else self._headers

    async def _exchange(self, call: "_Call") -> ModelAnswer:
        try:
            response = await self._session.post(
                self._url, data=call.body, headers=self._traced(), allow_redirects=False, trace_request_ctx=call
            )
        except aiohttp.ClientResponseError as error:
            raise errors.garbage(self.endpoint, error.message) from error
        except (aiohttp.ClientError, OSError) as error:
            if call.reused and not call.resent:
                call.resent = True
                raise _Stale from error
            raise errors.unreachable(self.endpoint, error) from error
        try:
            answer = await self._read(response, call)
        except BaseException:
            response.close()
            raise
        _leave(response)
        return answer

    async def _read(self, response: aiohttp.ClientResponse, call: "_Call") -> ModelAnswer:
        if response.status != 200:
            raise errors.refused(
                self.endpoint, response.status, response.headers, await _bounded_body(response), time.time()
            )
        if response.content_type in _NO_STREAM:
            body = (await _bounded_body(response)).decode(errors="replace")
            raise errors.garbage(self.endpoint, f"{response.content_type} instead of text/event-stream: {body}")
        try:
            return await self._stream(response.content, call)
        except Garbage as error:
            raise errors.garbage(self.endpoint, str(error)) from error
        except ErrorInStream as error:
            raise errors.reported(self.endpoint, error) from error
        except (Cut, aiohttp.ClientError, ConnectionError) as error:
            raise errors.cut(self.endpoint, error) from error

    async def _stream(self, content: aiohttp.StreamReader, call: "_Call") -> ModelAnswer:
        stream, patience, on_text = AnswerStream(), call.patience, call.on_text
        read, feed, touch = content.readany, stream.feed, patience.touch
        received = await read()
        patience.enter(BETWEEN_TOKENS)
        while received:
            touch()
            text = feed(received)
            if stream.started and call.timings.first_token is None:
                call.timings.mark("first_token")
            if text:
                on_text(text)
            if stream.done:
                break
            received = await read()
        answer = stream.answer()
        call.timings.mark("last_token")
        return answer


@dataclass(slots=True)
class _Call:
    """One call on its way; what aiohttp's tracing gets to see."""

    body: bytes
    on_text: Callable[[str], None]
    timings: ModelTimings
    patience: Patience
    reused: bool = False
    resent: bool = False


class _Stale(Exception):
    """A connection that had been open was closed before it answered."""


_NO_STREAM: Final = frozenset({"application/json", "text/html"})


def _chat_completions(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise InvalidArgument(
            "BAD_MODEL_URL", f"{base_url!r} is no model endpoint; write http://HOST:PORT/v1 or https://HOST/v1"
        )
    return base_url.rstrip("/") + "/chat/completions"


async def _bounded_body(response: aiohttp.ClientResponse) -> bytes:
    try:
        async with asyncio.timeout(ERROR_BODY):
            return await response.content.readexactly(errors.MAX_BODY)
    except asyncio.IncompleteReadError as error:
        return error.partial
    except (TimeoutError, aiohttp.ClientError):
        return b""


def _leave(response: aiohttp.ClientResponse) -> None:
    """Nobody waits for the end of a body whose answer is complete. Once it comes aiohttp uses the connection again; one
    on which it does not come within TRAILER is closed."""
    closing = asyncio.get_running_loop().call_later(TRAILER, response.close)
    response.content.on_eof(closing.cancel)


def _tracing() -> aiohttp.TraceConfig:
    """Tells a call when its connection opens, and when it has one."""
    tracing = aiohttp.TraceConfig()

    async def connecting(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        call: _Call = context.trace_request_ctx
        call.reused = False
        call.timings.mark("connect_start")

    async def connected(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        call: _Call = context.trace_request_ctx
        call.timings.mark("connect_end")
        call.timings.mark("sent")
        call.patience.enter(FIRST_TOKEN)

    async def reused(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        call: _Call = context.trace_request_ctx
        call.reused = True
        call.timings.mark("sent")
        call.patience.enter(FIRST_TOKEN)

    tracing.on_connection_create_start.append(connecting)
    tracing.on_connection_create_end.append(connected)
    tracing.on_connection_reuseconn.append(reused)
    return tracing
