"""Actors that users write: a class with `async def receive(self, context, message)`, made anew for each turn."""

import importlib
from dataclasses import dataclass
from typing import Any, Protocol, cast

from troupe.broker.addressing import SessionKey
from troupe.broker.retry import RetryPolicy
from troupe.chassis.errors import FailedPrecondition, InvalidArgument
from troupe.dataplane.actors.behaviour import Send, TurnContext, TurnResult
from troupe.v1.envelope_pb2 import Content, Data, SessionRef

MAX_STATE = 4 * 1024 * 1024
"""Bytes that an actor's state may have."""
MAX_SENDS = 1_000
"""Messages that one turn may send."""
MAX_SENT = 16 * 1024 * 1024
"""Bytes of content that one turn may send: all of it is in one commit."""
BYTES = "application/octet-stream"
"""The media type of bytes that are not said to be of any."""


class ActorContext:
    """What an actor's `receive` is given beside the message. What it sets is committed with the turn, or not at all."""

    def __init__(self, key: SessionKey, message_id: str, attempt: int, state: bytes) -> None:
        self.session, self.message_id, self.attempt = key.session, message_id, attempt
        self.state = state
        """The session's state: bytes, empty at first. Assign to it to change it."""
        self._key = key
        self._reply = Content(text="")
        self._sends: list[Send] = []
        self._sent_bytes = 0

    def reply(self, text: str | bytes, content_type: str = BYTES) -> None:
        """Answer the sender once the turn is committed; the last call counts. Text, or bytes of `content_type`."""
        self._reply = _content(text, content_type)

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
        content = _content(text, content_type)
        target = SessionKey.of(
            SessionRef(namespace=namespace or self._key.namespace, agent=agent, session=session), self._key.tenant
        )
        self._sent_bytes += content.ByteSize()
        if len(self._sends) >= MAX_SENDS or self._sent_bytes > MAX_SENT:
            raise InvalidArgument(
                "TOO_MUCH_SENT", f"a turn sends at most {MAX_SENDS} messages of together {MAX_SENT} bytes"
            )
        self._sends.append(Send(target, content))


def _content(text: str | bytes, content_type: str) -> Content:
    if isinstance(text, str):
        return Content(text=text)
    return Content(data=Data(content_type=content_type, value=text))


class ActorClass(Protocol):
    """What an entry point of kind Actor must name."""

    def __call__(self) -> Any:
        """An object with `async def receive(self, context: ActorContext, message: Content) -> None`."""
        ...


@dataclass(frozen=True)
class ActorBehaviour:
    """One Actor of one revision. See `troupe.dataplane.actors.behaviour.Behaviour`."""

    revision_id: str
    generation: int
    make: ActorClass
    retry: RetryPolicy
    deadline: float

    async def run(self, turn: TurnContext) -> TurnResult:
        context = ActorContext(turn.key, turn.message.id, turn.attempt, turn.state)
        await self.make().receive(context, turn.message.content)
        if not isinstance(context.state, bytes):
            raise InvalidArgument(
                "BAD_STATE", f"the actor's state is a {type(context.state).__name__}; it must be bytes"
            )
        if len(context.state) > MAX_STATE:
            raise InvalidArgument(
                "STATE_TOO_LARGE", f"the actor's state has {len(context.state)} bytes, more than {MAX_STATE}"
            )
        return TurnResult(reply=context._reply, state=context.state, sends=context._sends)


def load(entry_point: str, resource: str) -> ActorClass:
    """The class that `package.module:Class` names. Raises FailedPrecondition where it cannot be imported and
    InvalidArgument where it has no `receive`, both naming `resource`."""
    name, _, attribute = entry_point.partition(":")
    try:
        found = getattr(importlib.import_module(name), attribute, None)
    except Exception as error:
        raise FailedPrecondition(
            "ACTOR_IMPORT_FAILED",
            f"{resource}: cannot import {name} ({type(error).__name__}: {error}); is its directory on the worker's "
            "python path?",
            resource=resource,
        ) from error
    if not callable(found) or not callable(getattr(found, "receive", None)):
        raise InvalidArgument(
            "NOT_AN_ACTOR", f"{resource}: {entry_point} is no class with a method receive", resource=resource
        )
    return cast(ActorClass, found)
