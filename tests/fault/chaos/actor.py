"""The actors that workers host in the storm, and their tools: they apply operations and call the recorder."""

import asyncio
import os
import time
from collections.abc import Sequence
from typing import Final

from fault.chaos import recorder
from fault.chaos.operations import (
    PROMISE,
    READ,
    Applied,
    Kind,
    Operation,
    Reply,
    State,
    agent_of,
    from_reminder,
    from_session,
    key_of,
    undone,
)

from troupe.chassis.errors import FailedPrecondition, Unavailable
from troupe.dataplane.behaviours.actor_context import ActorContext
from troupe.dataplane.behaviours.batch import BatchContext, BatchedMessage
from troupe.dataplane.behaviours.context import Context
from troupe.dataplane.tools.tool import tool
from troupe.v1.envelope_pb2 import Content


@tool(idempotent=True)
async def call(session: str, under: str) -> int:
    """Call the recorder; any number of calls under one key are one."""
    return await recorder.record(os.environ[recorder.ADDRESS], session, under)


@tool
async def charge(session: str, under: str) -> int:
    """Call the recorder; each call counts."""
    return await recorder.record(os.environ[recorder.ADDRESS], session, under, once=True)


@tool(idempotent=True)
async def book(session: str, under: str) -> int:
    """As `call`, until it is taken back."""
    return await recorder.record(os.environ[recorder.ADDRESS], session, under)


@tool(idempotent=True)
async def undo(arguments: dict[str, str], result: int) -> int:
    """Take a call of `book` back."""
    assert result > 0
    return await recorder.record(os.environ[recorder.ADDRESS], arguments["session"], undone(arguments["under"]))


TOOLS: Final = {Kind.CHARGE: "charge", Kind.CANCEL: "book"}
"""What an operation calls that does not `call`."""


class Tally:
    """See `fault.chaos.operations`."""

    async def receive(self, context: ActorContext, message: Content) -> None:
        state = State.read(context.state)
        if message.text == READ:
            context.reply(state.text())
            return
        operation = Operation.read(message.text)
        await asyncio.sleep(operation.seconds)
        result = await self._result(context, operation)
        if context.attempt < operation.fails:
            raise Unavailable("AWAY", "what this needs is away for now")
        if operation.kind is Kind.HOPELESS:
            raise FailedPrecondition("HOPELESS", "this never works")
        if operation.kind is Kind.REMIND:
            reminded = Operation(from_reminder(context.message_id), 1)
            context.remind(f"r{operation.number}.{operation.sender}", reminded.text(), after=operation.delay)
        context.reply(_apply(context, state, operation, result).text())
        context.state = state.text().encode()

    async def _result(self, context: ActorContext, operation: Operation) -> int | None:
        result = None
        if operation.kind is Kind.RECORD:
            key = key_of(context.message_id, 0)
            result = await recorder.record(os.environ[recorder.ADDRESS], context.session, key)
        if operation.kind is Kind.ASK:
            result = await (await context.promise(PROMISE, int))
        tool_ = TOOLS.get(operation.kind, "call")
        for step in range(operation.steps):
            key = key_of(context.message_id, step)
            result = await context.call_tool(tool_, key=str(step), session=context.session, under=key)
            await asyncio.sleep(operation.seconds)
        return result


class Heap(Tally):
    """The same, for all messages that wait at once."""

    async def receive_batch(self, context: BatchContext, messages: Sequence[BatchedMessage]) -> None:
        state = State.read(context.state)
        for message in messages:
            if message.text == READ:
                message.reply(state.text())
            else:
                message.reply(_apply(context, state, Operation.read(message.text), None).text())
        context.state = state.text().encode()


def _apply(context: Context, state: State, operation: Operation, result: int | None) -> Reply:
    for target in operation.targets:
        number = state.sent[target] = state.sent.get(target, 0) + 1
        context.send(agent_of(target), target, Operation(from_session(context.session), number).text())
    state.applied.append(Applied(operation.sender, operation.number, result, time.time()))
    return Reply(len(state.applied) - 1, result)
