"""Actors of one class or function for tests, as a revision makes them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from support.attempts import Attempts

from troupe.broker.retry import RetryPolicy
from troupe.dataplane.behaviours.actor import ActorBehaviour, takes_batches
from troupe.dataplane.behaviours.actor_context import ActorContext
from troupe.dataplane.behaviours.state import StateForm
from troupe.dataplane.tools.executor import InProcessExecutor
from troupe.dataplane.tools.tool import Tool
from troupe.v1.envelope_pb2 import Content

RESOURCE = "Actor/default/till"

Receive = Callable[[ActorContext], Awaitable[None]]


def acting(
    made: Any, attempts: Attempts, *tools: Tool, compensations: Mapping[str, Tool] | None = None, asks: bool = False
) -> ActorBehaviour:
    """A behaviour of the class `made`."""
    return ActorBehaviour(
        revision_id="r1",
        generation=1,
        make=made,
        form=StateForm.of(made, RESOURCE),
        tools={tool.name: tool for tool in tools},
        compensations=compensations or {},
        executor=InProcessExecutor(),
        clock=attempts.clock,
        retry=RetryPolicy(),
        deadline=60.0,
        retention=60.0,
        max_batch=10 if takes_batches(made) else 1,
        asks=asks,
    )


def receiving(receive: Receive) -> Any:
    """A class whose `receive` is this function."""

    class Receiver:
        async def receive(self, context: ActorContext, message: Content) -> None:
            await receive(context)

    return Receiver
