"""What holds around every call that a server answers: errors, access, trace context, metrics."""

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from opentelemetry.trace import Span, StatusCode

from troupe.chassis import metrics, rpc_errors, tracing
from troupe.chassis.access.guard import Guard
from troupe.chassis.access.roles import acting
from troupe.chassis.errors import DataLoss, Internal, InvalidArgument, TroupeError
from troupe.chassis.rpc_running import Behaviour, Context, RunningCalls

log = structlog.get_logger()

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]
else:
    Handler = grpc.RpcMethodHandler  # generic in the stubs alone

_NAMES = {None: "OK"} | {value: code.name for code in grpc.StatusCode for value in (code, code.value[0])}
_NUMBERS = {code.name: code.value[0] for code in grpc.StatusCode}
_GIVEN_UP_BEFORE = 0.1
"""s before its deadline here a client may have left a call because of it: what its request took on the way."""


class Calls(grpc.aio.ServerInterceptor):
    """The one interceptor of a server, over calls of all four kinds. Handlers are coroutine functions or async
    generators; a generator is closed where its call ends, whatever ends it.

    A TroupeError answers with its status and details, any other exception with INTERNAL and a log line that alone
    has the traceback; cancellation (the client left, its deadline passed) goes through to the handler.
    """

    def __init__(self, running: RunningCalls, guard: Guard | None = None) -> None:
        self._running, self._guard = running, guard
        self._methods: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wraps each method once, however often it is called."""
        path = handler_call_details.method
        known = self._methods.get(path)
        if known is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            known = self._methods[path] = _wrapped(handler, path.removeprefix("/"), self._running, self._guard)
        return known


class _Method:
    """One method and what is counted of it."""

    def __init__(
        self,
        name: str,
        behaviour: Behaviour,
        decode: Callable[[bytes], Any] | None,
        running: RunningCalls,
        guard: Guard | None,
        *,
        streams: bool,
    ) -> None:
        self._name = name
        self._behaviour, self._decode = behaviour, decode
        self._running, self._guard = running, guard
        self._streams = streams
        self._traced = not name.startswith("grpc.")
        self._active = metrics.RPC_RUNNING.labels(name)
        self._seconds = metrics.RPC_SECONDS.labels(name)
        self._ok = metrics.RPC_CALLS.labels(name, "OK")

    async def answer(self, request: Any, context: Context) -> Any:
        if self._traced:
            sender = _sender(context)
            if sender.traceparent or tracing.recording():
                with tracing.remote_call(self._name, sender) as span:
                    return await self._counted(request, context, span)
        return await self._counted(request, context, None)

    async def _counted(self, request: Any, context: Context, span: Span | None) -> Any:
        begun = perf_counter()
        code = "UNKNOWN"
        self._active.inc()
        try:
            answer = await self._running.run(self._admitted, request, context, streams=self._streams)
            code = _NAMES.get(context.code(), "UNKNOWN")
        except asyncio.CancelledError:
            code = "DEADLINE_EXCEEDED" if _late(context) else "CANCELLED"
            raise
        except grpc.aio.UsageError as error:
            code = "INTERNAL"
            await _abort(context, self._defect(error))
        except grpc.aio.BaseError:
            code = _NAMES.get(context.code(), "UNKNOWN")
            raise
        except TroupeError as error:
            code = rpc_errors.status_code(error).name
            self._refused(error)
            await _abort(context, error)
        except Exception as error:
            code = "INTERNAL"
            await _abort(context, self._defect(error))
        else:
            return answer
        finally:
            self._active.dec()
            self._ended(code, perf_counter() - begun, span)

    async def _admitted(self, request: Any, context: Context) -> Any:
        if self._guard is None:  # everybody is anybody, as where nobody is named
            return await self._behaviour(self._decoded(request), context)
        with acting(await self._guard.admit(self._name, context)):
            return await self._behaviour(self._decoded(request), context)

    def _decoded(self, request: Any) -> Any:
        if self._decode is None:
            return request
        try:
            return self._decode(request)
        except DecodeError as error:
            raise InvalidArgument(
                "BAD_MESSAGE", f"what came is no request of {self._name}; use the contract of this server's version"
            ) from error

    def _ended(self, code: str, seconds: float, span: Span | None) -> None:
        if not self._streams:
            self._seconds.observe(seconds)
        (self._ok if code == "OK" else metrics.RPC_CALLS.labels(self._name, code)).inc()
        if span is not None:
            span.set_attribute("rpc.grpc.status_code", _NUMBERS[code])
            if code != "OK":
                span.set_status(StatusCode.ERROR, code)

    def _refused(self, error: TroupeError) -> None:
        write = log.error if isinstance(error, Internal | DataLoss) else log.debug
        write("call refused", method=self._name, reason=error.reason, error=str(error))

    def _defect(self, error: Exception) -> Internal:
        log.error("call failed unexpectedly", method=self._name, exc_info=error)
        return Internal("INTERNAL", f"{self._name} failed unexpectedly; the log of the server that ran it says why")


async def _abort(context: Context, error: TroupeError) -> None:
    status = rpc_errors.status(error)
    details = ((rpc_errors.STATUS_KEY, status.SerializeToString()),)
    await context.abort(rpc_errors.status_code(error), status.message, details)


def _late(context: Context) -> bool:
    """Whether a call that its client left was out of time. The client's clock for it began before the call came here,
    so the client gives up first, and what comes of it is a cancellation like any other."""
    remaining: Any = context.time_remaining()  # None where there is no deadline, which the stubs leave out
    return remaining is not None and remaining < _GIVEN_UP_BEFORE


def _wrapped(handler: Handler, name: str, running: RunningCalls, guard: Guard | None) -> Handler:
    make: Any
    behaviour: Any
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            make, behaviour = grpc.unary_unary_rpc_method_handler, handler.unary_unary
        case True, False:
            make, behaviour = grpc.stream_unary_rpc_method_handler, handler.stream_unary
        case False, True:
            make, behaviour = grpc.unary_stream_rpc_method_handler, _writing(handler.unary_stream)
        case _:
            make, behaviour = grpc.stream_stream_rpc_method_handler, _writing(handler.stream_stream)
    # gRPC would decode the request of a call before anybody asked whose it is.
    decode = None if handler.request_streaming else handler.request_deserializer
    method = _Method(name, behaviour, decode, running, guard, streams=handler.response_streaming)
    wrapped: Handler = make(
        method.answer, handler.request_deserializer if decode is None else None, handler.response_serializer
    )
    return wrapped


def _writing(behaviour: Any) -> Any:
    """The handler of a stream as a coroutine that writes: left suspended at a `yield`, a generator would run its
    `finally` whenever the garbage collector comes by."""
    if inspect.iscoroutinefunction(behaviour):
        return behaviour

    async def write(request: Any, context: Context) -> None:
        async with contextlib.aclosing(behaviour(request, context)) as answers:
            async for answer in answers:
                await context.write(answer)

    return write


def _sender(context: Context) -> tracing.Carrier:
    parent = state = ""
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent" and isinstance(value, str):
            parent = value
        elif key == "tracestate" and isinstance(value, str):
            state = value
    return tracing.Carrier(parent, state)
