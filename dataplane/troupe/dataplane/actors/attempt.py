"""What one attempt at a turn shows to those who listen, in order, with text coalesced."""

import asyncio
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from troupe.broker.order import Number
from troupe.chassis.clock import Clock
from troupe.chassis.errors import TroupeError
from troupe.chassis.wire import timestamp
from troupe.dataplane.actors.hub import MessageLog
from troupe.dataplane.state.control import Promise
from troupe.v1.envelope_pb2 import SessionRef
from troupe.v1.turn_pb2 import Completed, Event, Failed, ToolCallFinished, ToolCallStarted

SHOWN_RESULT = 4096
"""Bytes of a tool's result that an event shows."""


class AttemptEvents:
    """Numbers one attempt's events and appends them to the message's log."""

    def __init__(
        self,
        log: MessageLog,
        session: SessionRef,
        message_id: str,
        epoch: int,
        attempt: int,
        clock: Clock,
        digest: bytes = b"",
    ) -> None:
        """`digest` is the payload's."""
        self._log, self._session, self._message_id = log, session, message_id
        self._epoch, self._attempt, self._clock, self._digest = epoch, attempt, clock, digest
        self._sequence = 0
        self._text: list[str] = []
        self._shown_at = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._waits = 0

    def started(self, worker_id: str, revision_id: str, *, continues: bool = False) -> None:
        """`continues`: the attempt before ended in a wait, and what it showed stands."""
        event = self._event()
        event.started.worker_id, event.started.revision_id = worker_id, revision_id
        event.started.continues = continues
        self._show(event)

    def next(self, attempt: int) -> None:
        """What follows is of this attempt."""
        self._flush()
        self._attempt, self._sequence = attempt, 0

    def text(self, text: str) -> None:
        """Show more of the answer: the first after any other event at once, then as often as the log's `coalesce`
        says, and what is left before the next event of another kind."""
        self._text.append(text)
        if self._timer is None and not self._waits:
            wait = self._shown_at + self._log.coalesce - self._clock.monotonic()
            if wait <= 0:
                self._show_text()
            else:
                self._timer = asyncio.get_running_loop().call_later(wait, self._show_text)

    @contextmanager
    def text_waits(self) -> Iterator[None]:
        """Inside, text that comes is not shown. It is when this is left, and not at all where that is by an error."""
        self._flush()
        self._waits += 1
        try:
            yield
        except BaseException:
            self._drop()
            raise
        finally:
            self._waits -= 1
        self._flush()

    def tool_started(self, call: ToolCallStarted) -> None:
        self._flush()
        event = self._event()
        event.tool_call_started.CopyFrom(call)
        self._show(event)

    def tool_finished(self, call: ToolCallFinished) -> None:
        self._flush()
        event = self._event()
        event.tool_call_finished.CopyFrom(call)
        encoded = call.result.encode()
        if len(encoded) > SHOWN_RESULT:
            event.tool_call_finished.result = encoded[:SHOWN_RESULT].decode(errors="ignore") + "…"
        self._show(event)

    def sealed(self, error: TroupeError, next_attempt: float | None) -> None:
        """The attempt is void; `next_attempt` in seconds since the epoch, None: at once."""
        self._drop()
        event = self._event()
        event.sealed.error.CopyFrom(error.detail())
        if next_attempt is not None:
            event.sealed.next_attempt.CopyFrom(timestamp(next_attempt))
        self._show(event)

    def suspended(self, promises: Iterable[Promise]) -> None:
        """The attempt is over, and stands: its turn waits for one of these, or, where there are none, for RESUME."""
        self._flush()
        event = self._event()
        event.suspended.SetInParent()
        for promise in promises:
            awaited = event.suspended.promises.add(promise_id=promise.id, name=promise.name)
            if promise.expires:
                awaited.expires.CopyFrom(timestamp(promise.expires))
        self._show(event)

    def completed(self, completed: Completed, only: Number | None = None) -> None:
        self._flush()
        event = self._event()
        event.completed.CopyFrom(completed)
        self._show(event, only)

    def failed(self, failed: Failed, only: Number | None = None) -> None:
        """`only`: an answer for the sender of this copy."""
        self._flush()
        event = self._event()
        event.failed.CopyFrom(failed)
        self._show(event, only)

    def close(self) -> None:
        """Nothing more will be shown."""
        self._drop()

    def _show(self, event: Event, only: Number | None = None) -> None:
        self._log.append(event, only, self._digest)

    def _flush(self) -> None:
        """Something else is shown next."""
        if self._text and not self._waits:
            self._show_text()
        self._shown_at = -math.inf

    def _show_text(self) -> None:
        event = self._event()
        event.token_delta.text = "".join(self._text)
        self._show(event)
        self._drop()
        self._shown_at = self._clock.monotonic()

    def _drop(self) -> None:
        self._text.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _event(self) -> Event:
        self._sequence += 1
        return Event(
            session=self._session,
            message_id=self._message_id,
            epoch=self._epoch,
            attempt=self._attempt,
            sequence=self._sequence,
            time=timestamp(self._clock.now()),
        )
