"""The errors of Troupe: one class for each thing that a caller does differently about.

`code` is what a gRPC call answers with (a number of google.rpc.Code), `retryable` says whether the same again
may succeed, `reason` is what programs branch on, the message is one sentence for people: what, why, what to do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from google.rpc import code_pb2

from troupe.v1 import turn_pb2


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request that is wrong: `field` is a path such as `Agent/default/clerk spec.model`."""

    field: str
    description: str


class TroupeError(Exception):
    """Root of all errors that Troupe raises on purpose. `retry_after` is in seconds."""

    code: ClassVar[int] = code_pb2.INTERNAL
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        resource: str = "",
        retry_after: float | None = None,
        violations: Sequence[Violation] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.resource = resource
        self.retry_after = retry_after
        self.violations = tuple(violations)
        self.metadata = dict(metadata or {})

    def detail(self) -> turn_pb2.ErrorDetail:
        """The same as a message: for events, stored fates and status reports."""
        return turn_pb2.ErrorDetail(
            code=self.code,
            reason=self.reason,
            message=str(self),
            retryable=self.retryable,
            resource=self.resource,
        )


class InvalidArgument(TroupeError):
    """The request is wrong in itself; `violations` name the fields."""

    code = code_pb2.INVALID_ARGUMENT


class NotFound(TroupeError):
    """What the request names does not exist."""

    code = code_pb2.NOT_FOUND


class AlreadyExists(TroupeError):
    """The id is taken by something else."""

    code = code_pb2.ALREADY_EXISTS


class PermissionDenied(TroupeError):
    """The caller may not do this."""

    code = code_pb2.PERMISSION_DENIED


class FailedPrecondition(TroupeError):
    """The system is not in the state that this needs; trying again changes nothing by itself."""

    code = code_pb2.FAILED_PRECONDITION


class Aborted(TroupeError):
    """Somebody else was faster: read again, decide again."""

    code = code_pb2.ABORTED


class Unimplemented(TroupeError):
    """Named by the contract and not built yet."""

    code = code_pb2.UNIMPLEMENTED


class ResourceExhausted(TroupeError):
    """Something is full; `retry_after` says when to try again."""

    code = code_pb2.RESOURCE_EXHAUSTED
    retryable = True


class Unavailable(TroupeError):
    """Something that this needs does not answer now."""

    code = code_pb2.UNAVAILABLE
    retryable = True


class DeadlineExceeded(TroupeError):
    """It took longer than allowed; whether it had an effect is not known."""

    code = code_pb2.DEADLINE_EXCEEDED
    retryable = True


class DataLoss(TroupeError):
    """Stored data cannot be read."""

    code = code_pb2.DATA_LOSS


class Internal(TroupeError):
    """A defect of Troupe or of code that it hosts."""
