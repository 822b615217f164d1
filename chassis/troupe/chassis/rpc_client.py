"""gRPC channels as every Troupe process opens them."""

import weakref
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any, Self

import grpc

from troupe.chassis import rpc_options, rpc_tls, tracing
from troupe.chassis.credentials import BearerToken, Credentials
from troupe.chassis.rpc_errors import error_from, translated
from troupe.chassis.tls import Certificates, ClientTls

__all__ = ["CALL_TIMEOUT", "ClientTls", "Credentials", "channel", "error_from", "translated"]

CALL_TIMEOUT = 10.0
"""Seconds that a unary call gets when its caller names no timeout. Streams get none: keepalive watches them."""

_LOOK_AGAIN = 1.0
"""Seconds between two looks at the files of certificates and token of a channel that is in use."""


def channel(address: str, tls: ClientTls | None = None, token: str = "") -> grpc.aio.Channel:
    """A channel to `address` (`host:port`, or a gRPC target), in the clear without `tls`. It connects when first used
    and again after a loss, 0.1 s to 3 s later.

    Its calls carry the current trace context and `token`, which is a bearer token or `@FILE` that holds one. A changed
    file of a token is read again. Changed certificate files are used for new calls, on a connection of their own, while
    calls in flight stay on theirs. Raises InvalidArgument (BAD_TLS, BAD_TOKEN, TOKEN_IN_THE_CLEAR). Close it, or use
    `async with`.
    """
    Credentials(tls, token).check(address)
    return _Channel(address, Certificates(tls) if tls is not None else None, BearerToken(token) if token else None)


class _Channel(grpc.aio.Channel):
    """Wraps gRPC's channel rather than adding client interceptors to it, which cost a task for every call and cannot
    give a default timeout to calls of one kind only."""

    def __init__(self, address: str, certificates: Certificates | None, token: BearerToken | None) -> None:
        self._address = address
        self._certificates, self._token = certificates, token
        self._looked = monotonic()
        self._connection = self._opened()
        self._retired: weakref.WeakSet[grpc.aio.Channel] = weakref.WeakSet()

    def connection(self) -> grpc.aio.Channel:
        """gRPC's own channel, for new calls."""
        if (self._certificates or self._token) and monotonic() - self._looked >= _LOOK_AGAIN:
            self._looked = monotonic()
            if self._token is not None:
                self._token.refresh()
            if self._certificates is not None and self._certificates.refresh():
                # The old one goes when nothing refers to it any more; calls on it then still run to their end.
                self._retired.add(self._connection)
                self._connection = self._opened()
        return self._connection

    def metadata(self, given: Any) -> Any:
        """What a call carries: what its caller gave, the trace context and the token."""
        sender = tracing.carrier()
        if not sender.traceparent and self._token is None:
            return given
        extended = grpc.aio.Metadata(*(given or ()))
        if sender.traceparent:
            extended.add("traceparent", sender.traceparent)
        if sender.tracestate:
            extended.add("tracestate", sender.tracestate)
        if self._token is not None:
            extended.add(*self._token.header())
        return extended

    def _opened(self) -> grpc.aio.Channel:
        if self._certificates is None:
            return grpc.aio.insecure_channel(self._address, options=rpc_options.CLIENT)
        credentials = rpc_tls.channel_credentials(self._certificates.pem)
        return grpc.aio.secure_channel(self._address, credentials, options=rpc_options.CLIENT)

    def unary_unary(self, method: str, *codecs: Any, **more: Any) -> Any:
        return _Calls(self, lambda connection: connection.unary_unary(method, *codecs, **more), CALL_TIMEOUT)

    def unary_stream(self, method: str, *codecs: Any, **more: Any) -> Any:
        return _Calls(self, lambda connection: connection.unary_stream(method, *codecs, **more), None)

    def stream_unary(self, method: str, *codecs: Any, **more: Any) -> Any:
        return _Calls(self, lambda connection: connection.stream_unary(method, *codecs, **more), None)

    def stream_stream(self, method: str, *codecs: Any, **more: Any) -> Any:
        return _Calls(self, lambda connection: connection.stream_stream(method, *codecs, **more), None)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.connection().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._connection.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.connection().channel_ready()

    async def close(self, grace: float | None = None) -> None:
        for connection in (*self._retired, self._connection):
            await connection.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _Calls:
    """The calls of one method."""

    __slots__ = ("_channel", "_connection", "_make", "_make_call", "_timeout")

    def __init__(self, channel: _Channel, make: Callable[[grpc.aio.Channel], Any], timeout: float | None) -> None:
        self._channel = channel
        self._make = make
        self._timeout = timeout
        self._connection = channel.connection()
        self._make_call = make(self._connection)

    def __call__(self, request: Any = None, *, timeout: float | None = None, metadata: Any = None, **more: Any) -> Any:
        connection = self._channel.connection()
        if connection is not self._connection:
            self._connection, self._make_call = connection, self._make(connection)
        return self._make_call(
            request,
            timeout=self._timeout if timeout is None else timeout,
            metadata=self._channel.metadata(metadata),
            **more,
        )
