"""When the parts of one model call happened."""

import time
from collections.abc import Callable

from troupe.chassis.ledger import Interval
from troupe.v1 import turn_pb2


class ModelTimings:
    """The instants of one call, in seconds of `time.monotonic` (the event loop's clock); None: did not happen, or not
    yet. Give each call a new one: the client fills it as it goes, also for a call that fails or is cancelled."""

    __slots__ = (
        "_now",
        "admitted",
        "connect_end",
        "connect_start",
        "ended",
        "first_token",
        "last_token",
        "queued",
        "sent",
    )

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.queued: float | None = None
        self.admitted: float | None = None
        """It had its place among the model's concurrent calls."""
        self.connect_start: float | None = None
        """None where an open connection was used again."""
        self.connect_end: float | None = None
        self.sent: float | None = None
        """The request went onto an open connection."""
        self.first_token: float | None = None
        self.last_token: float | None = None
        self.ended: float | None = None

    def mark(self, instant: str) -> None:
        """`instant` is now."""
        setattr(self, instant, self._now())

    def intervals(self) -> list[Interval]:
        """What the call spent its time on so far, in order; a part that has not ended reaches to now."""
        until = self.ended if self.ended is not None else self._now()
        spans = (
            (turn_pb2.LEDGER_CAUSE_MODEL_QUEUE, self.queued, self.admitted),
            (turn_pb2.LEDGER_CAUSE_CONNECT, self.connect_start, self.connect_end),
            (turn_pb2.LEDGER_CAUSE_MODEL_FIRST_TOKEN, self.sent, self.first_token),
            (turn_pb2.LEDGER_CAUSE_MODEL_STREAMING, self.first_token, self.last_token),
        )
        return [
            Interval(cause, start, until if end is None else end) for cause, start, end in spans if start is not None
        ]
