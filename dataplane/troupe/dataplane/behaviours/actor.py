"""Actors that users write: a class with `async def receive(self, context, message)`, made anew for each attempt."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from troupe.broker.retry import RetryPolicy
from troupe.chassis.clock import Clock
from troupe.chassis.errors import FailedPrecondition, InvalidArgument
from troupe.dataplane.actors.behaviour import TurnContext, TurnResult
from troupe.dataplane.behaviours.actor_calls import ActorCalls, newest_first
from troupe.dataplane.behaviours.actor_context import ActorContext
from troupe.dataplane.behaviours.batch import BatchContext, BatchedMessage
from troupe.dataplane.behaviours.compensation import compensate
from troupe.dataplane.behaviours.context import Context
from troupe.dataplane.behaviours.promises import TurnPromises
from troupe.dataplane.behaviours.state import StateForm
from troupe.dataplane.state.session import RETENTION
from troupe.dataplane.tools.executor import ToolExecutor
from troupe.dataplane.tools.tool import Tool
from troupe.v1.envelope_pb2 import Content


class ActorClass(Protocol):
    """What an entry point of kind Actor must name."""

    def __call__(self) -> Any:
        """An object with `async def receive(self, context: ActorContext, message: Content) -> None` and, where it takes
        several messages at once, `async def receive_batch(self, context: BatchContext, messages: Sequence[
        BatchedMessage]) -> None`. What its class says of the state is in `troupe.dataplane.behaviours.state`."""
        ...


@dataclass(frozen=True, kw_only=True)
class ActorBehaviour:
    """One Actor of one revision. See `troupe.dataplane.actors.behaviour.Behaviour`."""

    revision_id: str
    generation: int
    make: ActorClass
    form: StateForm
    executor: ToolExecutor
    clock: Clock
    retry: RetryPolicy
    deadline: float
    tools: Mapping[str, Tool] = field(default_factory=dict)
    """By name."""
    compensations: Mapping[str, Tool] = field(default_factory=dict)
    """By name of the tool that they are for."""
    retention: float = RETENTION
    max_batch: int = 1
    asks: bool = False
    """A person is asked what a call of unknown outcome came to."""

    async def run(self, turn: TurnContext) -> TurnResult:
        if turn.batch:
            return await self._run_batch(turn)
        promises = TurnPromises(turn, self.clock)
        context = ActorContext(
            turn,
            self.form.resource,
            self.form.read(turn.state),
            self.clock,
            promises,
            lambda: ActorCalls(turn, promises, self.tools, self.executor, self.clock, asks=self.asks),
        )
        await context.lasting(self.make().receive(context, turn.message.content))
        return self._result(turn, context, [context.answer])

    async def compensate(self, turn: TurnContext) -> None:
        await compensate(turn, newest_first(turn.journal.kept), self.compensations, self.executor, self.clock)

    async def _run_batch(self, turn: TurnContext) -> TurnResult:
        resource = self.form.resource
        context = BatchContext(turn, resource, self.form.read(turn.state), self.clock)
        messages = [BatchedMessage(each.id, each.content, resource) for each in (turn.message, *turn.batch)]
        await self.make().receive_batch(context, messages)
        return self._result(turn, context, [message.answer for message in messages])

    def _result(self, turn: TurnContext, context: Context, answers: list[Content]) -> TurnResult:
        state = self.form.write(context.state, context.session)
        return TurnResult(
            reply=answers[0],
            replies=answers[1:],
            state=None if state == turn.state else state,
            sends=context.sends,
            remind=[reminder for reminder in context.reminders.values() if reminder is not None],
            forget_reminders=[name for name, reminder in context.reminders.items() if reminder is None],
        )


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


def takes_batches(actor: ActorClass) -> bool:
    """Whether it has a method `receive_batch`."""
    return callable(getattr(actor, "receive_batch", None))
