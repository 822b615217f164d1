"""What an actor's `receive` is given: what a turn can do beside saying something."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from troupe.chassis.clock import Clock
from troupe.chassis.errors import FailedPrecondition, InvalidArgument, TroupeError
from troupe.chassis.wire import seconds
from troupe.dataplane.actors.behaviour import TurnContext
from troupe.dataplane.behaviours.actor_calls import ActorCalls
from troupe.dataplane.behaviours.context import MAX_SPAN, Context, Span, content_of, span_seconds
from troupe.dataplane.behaviours.promises import FRESH, NAME, AwaitedValue, Schema, TurnPromises, json_schema
from troupe.dataplane.blobs.payloads import BYTES
from troupe.dataplane.tools.errors import ToolFailed
from troupe.v1 import promise_pb2
from troupe.v1.envelope_pb2 import Content


class ActorContext(Context):
    """What `receive` is given beside the message."""

    def __init__(
        self,
        turn: TurnContext,
        resource: str,
        state: Any,
        clock: Clock,
        promises: TurnPromises,
        calling: Callable[[], ActorCalls],
    ) -> None:
        """`calling` makes the turn's calls, once there is one."""
        super().__init__(turn, resource, state, clock)
        self.message_id = turn.message.id
        self.sent_at = seconds(turn.message.first_sent)
        """When the message was sent, or due, in seconds since the epoch: the same in each attempt."""
        self.reminder = turn.message.reminder or None
        """Name of the reminder that the message is; None for any other message."""
        self.answer = Content(text="")
        self._turn, self._promises, self._calling = turn, promises, calling
        self._calls: ActorCalls | None = None
        self._end: TroupeError | None = None
        self._over = False

    @property
    def cancelled(self) -> bool:
        """Whether a CANCEL came: what `receive` awaits raises CancelledError then, as it does at the deadline and when
        the worker stops. For what cleans up, and for code that runs in a thread."""
        return self._turn.cancelled()

    def reply(self, text: str | bytes, content_type: str = BYTES) -> None:
        """Answer the sender once the turn is committed; the last call counts. Text, or bytes of `content_type`."""
        self.answer = content_of(text, content_type, f"{self._resource}: the reply")

    async def call_tool(
        self, tool: str, arguments: Mapping[str, Any] | None = None, /, *, key: str | None = None, **more: Any
    ) -> Any:
        """Call one of the actor's tools, and get what it returned: text, or JSON's numbers, lists and dicts. Its start
        is journaled before and its result after, so that an attempt that comes again gets the result, and the tool is
        not called again. `key` names the call within the turn; by default it follows from the tool, its arguments and
        how often the turn has made this call.

        Raises ToolFailed. Ends the attempt with UNKNOWN_OUTCOME where an earlier one ended while the call ran and the
        tool is not idempotent, or lets the turn wait for a person who knows, as the actor's `unknownOutcome` says; with
        NON_DETERMINISTIC where the key is that of another call."""
        with self._runtime():
            if self._calls is None:
                self._calls = self._calling()
            return await self._calls.call(tool, {**(arguments or {}), **more}, key)

    async def promise(
        self, name: str, schema: Schema = None, *, expires: Span | None = None, approvers: Sequence[str] = ()
    ) -> AwaitedValue:
        """A value that somebody outside gives, open once this returns: `value = await promise`. `name` is unique within
        the turn; `schema` is the value's Python type or JSON Schema, None: any content; after `expires` it has no value
        any more, None: never. `approvers` are names of credentials that may settle it by name, beside operators.
        Raises InvalidArgument for a name that is not 1 to 63 letters, digits and `._:-`, a schema, and a span."""
        if not NAME.fullmatch(name):
            raise InvalidArgument("BAD_NAME", f"promise {name!r}: must match {NAME.pattern}")
        lasts, checked = None if expires is None else span_seconds(expires), json_schema(schema, name)
        if lasts is not None and not 0 < self._clock.now() + lasts < MAX_SPAN:
            raise InvalidArgument(
                "BAD_EXPIRES",
                f"promise {name}: `expires` is no span: {lasts:g} s; leave it out where it never does",
            )
        with self._runtime():
            promise_id = self._promises.id(name)
            token = self._promises.token(promise_id)
            found = self._promises.found(promise_id)
            if found is None or (found.state == promise_pb2.PROMISE_STATE_OPEN and len(found.tokens) < FRESH):
                found = await self._promises.make(
                    name, lasts=lasts, json_schema=checked, approvers=approvers, token=token
                )
            else:
                self._promises.hold(found, token)
        return AwaitedValue(self._promises, found, schema, token)

    async def lasting(self, handling: Awaitable[None]) -> None:
        """Await the actor's code. What the runtime said while it ran ends the attempt, whatever the code made of that.
        Calls that still run come to their end first, unless the attempt is cancelled."""
        try:
            await handling
            await self._quiet()
        except Exception:
            await self._quiet()
            if self._end is None:
                raise
        finally:
            self._over = True
        if self._end is not None:
            raise self._end

    async def _quiet(self) -> None:
        if self._calls is not None:
            await self._calls.quiet()

    @contextmanager
    def _runtime(self) -> Iterator[None]:
        if self._over:
            raise FailedPrecondition("TURN_OVER", f"{self._resource}: the turn is over; what it starts must end in it")
        try:
            yield
        except (ToolFailed, InvalidArgument):
            raise
        except TroupeError as error:
            self._end = self._end or error
            raise
