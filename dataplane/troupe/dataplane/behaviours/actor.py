"""Actors that users write: a class with `async def receive(self, context, message)`, made anew for each turn."""

import importlib
from dataclasses import dataclass
from typing import Any, Protocol, cast

from troupe.broker.retry import RetryPolicy
from troupe.chassis.errors import FailedPrecondition, InvalidArgument
from troupe.dataplane.actors.behaviour import TurnContext, TurnResult
from troupe.v1.envelope_pb2 import Content

MAX_STATE = 4 * 1024 * 1024
"""Bytes that an actor's state may have."""


class ActorContext:
    """What an actor's `receive` is given beside the message. What it sets is committed with the turn, or not at all."""

    def __init__(self, session: str, message_id: str, attempt: int, state: bytes) -> None:
        self.session, self.message_id, self.attempt = session, message_id, attempt
        self.state = state
        """The session's state: bytes, empty at first. Assign to it to change it."""
        self._reply = Content(text="")

    def reply(self, text: str | bytes, content_type: str = "application/octet-stream") -> None:
        """Answer the sender once the turn is committed; the last call counts. Text, or bytes of `content_type`."""
        self._reply = Content(text=text) if isinstance(text, str) else Content()
        if isinstance(text, bytes):
            self._reply.data.content_type, self._reply.data.value = content_type, text


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
        context = ActorContext(turn.key.session, turn.message.id, turn.attempt, turn.state)
        await self.make().receive(context, turn.message.content)
        if not isinstance(context.state, bytes):
            raise InvalidArgument(
                "BAD_STATE", f"the actor's state is a {type(context.state).__name__}; it must be bytes"
            )
        if len(context.state) > MAX_STATE:
            raise InvalidArgument(
                "STATE_TOO_LARGE", f"the actor's state has {len(context.state)} bytes, more than {MAX_STATE}"
            )
        return TurnResult(reply=context._reply, state=context.state)


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
