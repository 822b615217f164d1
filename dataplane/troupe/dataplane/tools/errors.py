"""The ends of a turn that only a turn with calls can have."""

from typing import ClassVar

from google.rpc import code_pb2

from troupe.chassis.errors import Internal, TroupeError


class UnknownOutcome(TroupeError):
    """A tool that is not idempotent was started, and nobody can know whether it acted. Reason UNKNOWN_OUTCOME."""

    code: ClassVar[int] = code_pb2.UNKNOWN

    def __init__(self, tool: str, call_id: str, why: str) -> None:
        super().__init__(
            "UNKNOWN_OUTCOME",
            f"tool {tool} (call {call_id}) {why}, and it is not declared idempotent: look at what it acts on "
            "before you send it again, under another id",
            metadata={"tool": tool, "call_id": call_id},
        )


class NonDeterministic(Internal):
    """The journal holds something else than what this replay decided. Reason NON_DETERMINISTIC."""

    def __init__(self, why: str) -> None:
        super().__init__("NON_DETERMINISTIC", f"the turn does not replay: {why}; the journal was written by other code")


class ToolFailed(TroupeError):
    """A call of `context.call_tool` failed, as it will again when the turn is replayed. `reason` is the failure's code:
    UNKNOWN_TOOL, INVALID_ARGUMENTS, TOOL_FAILED, TOOL_TIMEOUT or RESULT_TOO_LARGE."""

    code: ClassVar[int] = code_pb2.FAILED_PRECONDITION

    def __init__(self, tool: str, content: str) -> None:
        """`content` is `CODE: why`."""
        reason, _, why = content.partition(": ")
        super().__init__(reason, f"tool {tool}: {why}", metadata={"tool": tool})
