"""What holds around every call that a server answers: errors, trace context, metrics, and the end of the server."""

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from opentelemetry.trace import Span, StatusCode

from troupe.chassis import metrics, rpc_errors, tracing
from troupe.chassis.errors import DataLoss, Internal, TroupeError, Unavailable

log = structlog.get_logger()

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]
else:
    Handler, Context = grpc.RpcMethodHandler, grpc.aio.ServicerContext  # generic in the stubs alone
Behaviour = Callable[[Any, Any], Awaitable[Any]]

_NAMES = {None: "OK"} | {value: code.name for code in grpc.StatusCode for value in (code, code.value[0])}
_NUMBERS = {code.name: code.value[0] for code in grpc.StatusCode}


class Calls(grpc.aio.ServerInterceptor):
    """The one interceptor of a server, over calls of all four kinds. Handlers are coroutine functions or async
    generators; a generator is closed where its call ends, whatever ends it.

    A TroupeError answers with its status and details, any other exception with INTERNAL and a log line that alone
    has the traceback; cancellation (the client left, its deadline passed) goes through to the handler.
    """

    def __init__(self) -> None:
        self._methods: dict[str, Handler] = {}
        self._running: set[_Running] = set()
        self._stopped = False

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
            known = self._methods[path] = _wrapped(handler, path.removeprefix("/"), self)
        return known

    async def finish(self, grace: float) -> None:
        """Take no more calls, end streams now (their callers take them up elsewhere) and the others after `grace`
        seconds. What is ended or not taken answers UNAVAILABLE, reason STOPPING."""
        self._stopped = True
        for call in self._running:
            if call.streams:
                call.end()
        if self._running:
            await asyncio.wait([call.task for call in self._running], timeout=grace)
        for call in self._running:
            call.end()

    async def run(self, behaviour: Behaviour, request: Any, context: Context, *, streams: bool) -> Any:
        """Await the handler of one call. Raises Unavailable where `finish` ended it or came before."""
        if self._stopped:
            raise _stopping()
        call = _Running(context, streams)
        self._running.add(call)
        try:
            return await behaviour(request, call if streams else context)
        except asyncio.CancelledError:
            if not call.ended:
                raise
            call.task.uncancel()
            raise _stopping() from None
        finally:
            self._running.discard(call)


class _Running:
    """A call while its handler runs; for the handler of a stream also the context to write to.

    A write that has begun is let finish before the call is ended: gRPC takes no status while it sends a message.
    """

    def __init__(self, context: Context, streams: bool) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.streams = streams
        self.ended = False
        self._context = context
        self._writing = False

    def end(self) -> None:
        self.ended = True
        if not self._writing:
            self.task.cancel()

    async def write(self, message: Any) -> None:
        self._writing = True
        try:
            await self._context.write(message)
        finally:
            self._writing = False
        if self.ended:
            raise asyncio.CancelledError

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class _Method:
    """One method and what is counted of it."""

    def __init__(self, name: str, behaviour: Behaviour, calls: Calls, *, streams: bool) -> None:
        self._name = name
        self._behaviour = behaviour
        self._calls = calls
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
            answer = await self._calls.run(self._behaviour, request, context, streams=self._streams)
            code = _NAMES.get(context.code(), "UNKNOWN")
        except asyncio.CancelledError:
            code = "DEADLINE_EXCEEDED" if context.time_remaining() == 0 else "CANCELLED"
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

    def _ended(self, code: str, seconds: float, span: Span | None) -> None:
        if not self._streams:
            self._seconds.observe(seconds)
        (self._ok if code == "OK" else metrics.RPC_CALLS.labels(self._name, code)).inc()
        if span is not None and span.is_recording():
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


def _wrapped(handler: Handler, name: str, calls: Calls) -> Handler:
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
    method = _Method(name, behaviour, calls, streams=handler.response_streaming)
    wrapped: Handler = make(method.answer, handler.request_deserializer, handler.response_serializer)
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


def _stopping() -> Unavailable:
    return Unavailable("STOPPING", "this server is stopping; call again, and one that runs will answer")
