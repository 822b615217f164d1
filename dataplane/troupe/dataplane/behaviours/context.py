"""What an actor's methods are given beside the message. What they set is committed with the turn, or not at all."""

from datetime import datetime, timedelta
from typing import Any, Final

from troupe.broker.addressing import SessionKey
from troupe.chassis.clock import Clock
from troupe.chassis.errors import InvalidArgument
from troupe.dataplane.actors.behaviour import Remind, Send, TurnContext
from troupe.dataplane.behaviours.promises import NAME
from troupe.dataplane.blobs.payloads import BYTES, MAX_CONTENT
from troupe.v1.envelope_pb2 import Content, Data, SessionRef

MAX_SENDS: Final = 1_000
"""Messages that one turn may send."""
MAX_SENT: Final = 16 * 1024 * 1024
"""Bytes of content that one turn may send: all of it is in one commit."""
MAX_REMINDERS: Final = 100
"""Reminders that one turn may set or forget."""
MIN_EVERY: Final = 1.0
"""Seconds between two occurrences of a reminder."""
MAX_SPAN: Final = 1e11
"""Seconds that are no span any more, from now or from the epoch: three thousand years."""

Span = float | timedelta
"""Seconds, or a timedelta."""


class Context:
    """What `receive` and `receive_batch` have in common."""

    def __init__(self, turn: TurnContext, resource: str, state: Any, clock: Clock) -> None:
        self.session = turn.key.session
        self.attempt = turn.attempt
        """Which try this is, from 0."""
        self.state: Any = state
        """The session's state, a value of this turn's own: bytes, empty at first, or the class's `state_type`. Change
        it, or assign to it."""
        self.sends: list[Send] = []
        self.reminders: dict[str, Remind | None] = {}
        """Those that the turn sets, by name, and None for those that it forgets."""
        self._key, self._resource, self._clock = turn.key, resource, clock
        self._sent_bytes = 0

    def send(
        self,
        agent: str,
        session: str,
        text: str | bytes,
        *,
        content_type: str = BYTES,
        namespace: str | None = None,
    ) -> None:
        """Send a message to a session of an agent or actor, by default of this one's namespace, once the turn is
        committed, and only then. It arrives once, and in the order of the calls with what else this session sends
        there; nobody answers it. Raises InvalidArgument for names that are none, and beyond MAX_SENDS messages or
        MAX_SENT bytes."""
        content = content_of(text, content_type, f"{self._resource}: a message to {agent}/{session}")
        target = SessionKey.of(
            SessionRef(namespace=namespace or self._key.namespace, agent=agent, session=session), self._key.tenant
        )
        self._sent_bytes += content.ByteSize()
        if len(self.sends) >= MAX_SENDS or self._sent_bytes > MAX_SENT:
            raise InvalidArgument(
                "TOO_MUCH_SENT",
                f"{self._resource}: a turn sends at most {MAX_SENDS} messages of together {MAX_SENT} bytes",
            )
        self.sends.append(Send(target, content))

    def remind(
        self,
        name: str,
        text: str | bytes = "",
        *,
        after: Span | None = None,
        at: float | datetime | None = None,
        every: Span | None = None,
        content_type: str = BYTES,
    ) -> None:
        """Let the session get this message, as a turn of its own with `context.reminder` set, once the turn is
        committed: `after` a span, or `at` a time (seconds since the epoch, or an aware datetime), then again `every`
        span of at least 1 s, until it is forgotten; with `every` alone, first after it. It takes the place of the one
        that has the name. It comes late where nobody could run it, never early, and at least once. Raises
        InvalidArgument for a name that is not 1 to 63 letters, digits and `._:-`, for times, and beyond MAX_REMINDERS
        in one turn."""
        again = 0.0 if every is None else span_seconds(every)
        if (after is None) == (at is None) and not (after is None and every is not None):
            raise InvalidArgument("BAD_REMINDER", f"reminder {name}: say when, either `after` or `at`, or `every`")
        if every is not None and not MIN_EVERY <= again < MAX_SPAN:
            raise InvalidArgument(
                "BAD_REMINDER", f"reminder {name}: `every` is at least {MIN_EVERY:g} s, and less than {MAX_SPAN:g} s"
            )
        if at is not None:
            due = at.timestamp() if isinstance(at, datetime) else float(at)
        else:
            due = self._clock.now() + span_seconds(after if after is not None else again)
        if not 0 <= due < MAX_SPAN:
            raise InvalidArgument("BAD_REMINDER", f"reminder {name}: there is no such time as {due:g}")
        content = content_of(text, content_type, f"{self._resource}: reminder {name}")
        self._set(name, Remind(name, due, again, content))

    def forget_reminder(self, name: str) -> None:
        """Take the reminder of this name from the schedule once the turn is committed. Nothing where there is none."""
        self._set(name, None)

    def _set(self, name: str, reminder: Remind | None) -> None:
        if not NAME.fullmatch(name):
            raise InvalidArgument("BAD_NAME", f"reminder {name!r}: must match {NAME.pattern}")
        if name not in self.reminders and len(self.reminders) == MAX_REMINDERS:
            raise InvalidArgument("TOO_MANY_REMINDERS", f"a turn sets or forgets at most {MAX_REMINDERS} reminders")
        self.reminders[name] = reminder


def content_of(text: str | bytes, content_type: str, what: str) -> Content:
    """`what` is named in the error: InvalidArgument PAYLOAD_TOO_LARGE beyond MAX_CONTENT."""
    if isinstance(text, bytes):
        content = Content(data=Data(content_type=content_type, value=text))
    else:
        content = Content(text=text)
    if (size := content.ByteSize()) > MAX_CONTENT:
        raise InvalidArgument("PAYLOAD_TOO_LARGE", f"{what} has {size:,} bytes, at most {MAX_CONTENT:,} are taken")
    return content


def span_seconds(span: Span) -> float:
    """The span in seconds."""
    return span.total_seconds() if isinstance(span, timedelta) else float(span)
