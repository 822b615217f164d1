"""TroupeErrors across gRPC: google.rpc.Status with ErrorInfo, BadRequest, RetryInfo and ResourceInfo, both ways."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import ClassVar, Final
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from troupe.chassis import errors, wire
from troupe.chassis.errors import TroupeError, Violation

DOMAIN: Final = "troupe.dev"
STATUS_KEY: Final = "grpc-status-details-bin"

MESSAGE_BYTES: Final = 1_000
DETAILS_BYTES: Final = 4_000
"""Together, encoded, they stay below the 8 KiB of metadata that clients in other languages accept."""

_TRIED: Final = re.compile(
    r"last error: [A-Z_]+: ipv[46]:(?P<address>\S+?:\d+): (Failed to connect to remote host: )?(?P<why>.+)"
)
"""How gRPC tells that no address could be connected to."""


class Cancelled(TroupeError):
    """The other end ended the call; whether it had an effect is not known."""

    code: ClassVar[int] = code_pb2.CANCELLED
    retryable: ClassVar[bool] = True


class Unknown(TroupeError):
    """The other end failed without saying how, or says that nobody can know whether it acted."""

    code: ClassVar[int] = code_pb2.UNKNOWN


class OutOfRange(TroupeError):
    """The request goes past the end of what there is."""

    code: ClassVar[int] = code_pb2.OUT_OF_RANGE


class Unauthenticated(TroupeError):
    """The call carries no credential that the server takes."""

    code: ClassVar[int] = code_pb2.UNAUTHENTICATED


_CLASSES: Final[dict[int, type[TroupeError]]] = {
    kind.code: kind
    for kind in (
        errors.InvalidArgument,
        errors.NotFound,
        errors.AlreadyExists,
        errors.PermissionDenied,
        errors.FailedPrecondition,
        errors.Aborted,
        errors.Unimplemented,
        errors.ResourceExhausted,
        errors.Unavailable,
        errors.DeadlineExceeded,
        errors.DataLoss,
        errors.Internal,
        Cancelled,
        Unknown,
        OutOfRange,
        Unauthenticated,
    )
}

_CODES: Final[dict[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}


def status_code(error: TroupeError) -> grpc.StatusCode:
    """What a call that ends in `error` answers with."""
    return _CODES[error.code]


def status(error: TroupeError) -> status_pb2.Status:
    """The error as details of a call. `source` in its metadata is `gateway` unless the error says otherwise.

    A message over `MESSAGE_BYTES` is cut, and violations that do not fit are counted in a last one without field.
    """
    message = status_pb2.Status(code=error.code, message=_cut(str(error), MESSAGE_BYTES))
    _add(
        message,
        error_details_pb2.ErrorInfo(
            reason=error.reason, domain=DOMAIN, metadata={"source": "gateway"} | error.metadata
        ),
    )
    if error.retry_after is not None:
        _add(message, error_details_pb2.RetryInfo(retry_delay=wire.duration(error.retry_after)))
    if error.resource:
        _add(message, error_details_pb2.ResourceInfo(resource_name=error.resource))
    if error.violations:
        _add(message, _bad_request(error.violations, DETAILS_BYTES - message.ByteSize()))
    return message


def error_from(rpc_error: grpc.RpcError, address: str = "") -> TroupeError:
    """The error of a failed call: what the server raised, of the same class and with all it said.

    Where the server sent no details (it is down, it is no Troupe server), the reason is the name of the code, and
    the message names `address`, or the address that gRPC tried.
    """
    if not isinstance(rpc_error, grpc.aio.AioRpcError):
        raise TypeError(f"not the error of an asyncio call: {rpc_error!r}")
    sent = _sent(rpc_error)
    return _bare(rpc_error, address) if sent is None else _detailed(sent)


@contextlib.contextmanager
def translated(address: str = "") -> Iterator[None]:
    """Failed calls inside leave as what `error_from` makes of them, gRPC's own error as the cause."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise error_from(error, address) from error


def _add(message: status_pb2.Status, detail: Message) -> None:
    message.details.add().Pack(detail)


def _bad_request(violations: Sequence[Violation], room: int) -> error_details_pb2.BadRequest:
    request = error_details_pb2.BadRequest()
    for place, violation in enumerate(violations):
        room -= len(violation.field.encode()) + len(violation.description.encode()) + 12
        if room < 0:
            request.field_violations.add(description=f"and {len(violations) - place} more")
            break
        request.field_violations.add(field=violation.field, description=violation.description)
    return request


def _cut(text: str, limit: int) -> str:
    encoded = text.encode()
    return text if len(encoded) <= limit else encoded[: limit - 3].decode(errors="ignore") + "…"


def _sent(rpc_error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    for key, value in rpc_error.trailing_metadata() or ():
        if key == STATUS_KEY and isinstance(value, bytes):
            with contextlib.suppress(DecodeError):
                return status_pb2.Status.FromString(value)
    return None


def _detailed(sent: status_pb2.Status) -> TroupeError:
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    resource = error_details_pb2.ResourceInfo()
    request = error_details_pb2.BadRequest()
    for detail in sent.details:
        for known in (info, retry, resource, request):
            with contextlib.suppress(DecodeError):
                if detail.Unpack(known):
                    break
    return _CLASSES.get(sent.code, Unknown)(
        info.reason or code_pb2.Code.Name(sent.code),
        sent.message,
        resource=resource.resource_name,
        retry_after=wire.seconds(retry.retry_delay) if retry.HasField("retry_delay") else None,
        violations=[Violation(each.field, each.description) for each in request.field_violations],
        metadata=info.metadata,
    )


def _bare(rpc_error: grpc.aio.AioRpcError, address: str) -> TroupeError:
    code, said = rpc_error.code(), rpc_error.details() or ""
    tried = _TRIED.search(unquote(said))
    where = address or (tried["address"] if tried else "the server")
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            why = tried["why"] if tried else said or "no connection"
            message = f"no answer from {where}: {why}; check that it runs there"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            message = f"no answer from {where} in time; whether the call had an effect is not known"
        case grpc.StatusCode.UNIMPLEMENTED:
            message = f"{where} does not serve this call ({said}): it is of another version, or no Troupe server"
        case _:
            message = f"call to {where} failed: {said or code.name.lower()}"
    return _CLASSES.get(code.value[0], Unknown)(code.name, message)
