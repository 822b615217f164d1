"""Taking back what a cancelled turn has done: the tools that its tools name for that, newest call first, once each."""

from collections.abc import Iterable, Mapping

import msgspec
import structlog

from troupe.chassis.clock import Clock
from troupe.dataplane.actors.behaviour import NotCompensated, TurnContext
from troupe.dataplane.behaviours.calls import TAKING_BACK, JournaledCalls
from troupe.dataplane.behaviours.promises import TurnPromises
from troupe.dataplane.behaviours.step_names import START
from troupe.dataplane.tools.call import ToolCall, ToolMessage
from troupe.dataplane.tools.calls import Calls
from troupe.dataplane.tools.errors import UnknownOutcome
from troupe.dataplane.tools.executor import ToolExecutor, ToolOutcome
from troupe.dataplane.tools.tool import Tool

log = structlog.get_logger()


async def compensate(
    turn: TurnContext,
    calls: Iterable[ToolCall],
    compensations: Mapping[str, Tool],
    executor: ToolExecutor,
    clock: Clock,
) -> None:
    """Carry out the compensations, by name of the tool that they are for, of those of `calls`, newest first, that came
    to a result. Calls that failed have nothing to take back. What goes wrong with one is logged, and the others are
    carried out all the same. Raises NotCompensated, at the end, where anything did; what the journal raises ends it."""
    ports, left = JournaledCalls(turn, TurnPromises(turn, clock), clock, asks=False), []
    for call in calls:
        result = ports.journaled_result(call.call_id)
        if result is None:
            log.warning("cancelled call has no result", tool=call.tool, call=call.call_id, message=turn.message.id)
        elif not result.failed and (tool := compensations.get(call.tool)) is not None:
            taking_back = _taking_back(call, result, tool)
            if (why := await _carried_out(turn, taking_back, tool, ports, executor)) is not None:
                log.error("compensation failed", tool=tool.name, call=call.call_id, message=turn.message.id, why=why)
                left.append(f"{call.tool} (call {call.call_id}): {why}")
    if left:
        raise NotCompensated(turn.message.id, "; ".join(left))


def _taking_back(call: ToolCall, result: ToolMessage, tool: Tool) -> ToolCall:
    given = {
        "arguments": msgspec.Raw(call.arguments.encode() or b"{}"),
        "result": msgspec.Raw(result.content.encode()) if result.json else result.content,
    }
    return ToolCall(f"{TAKING_BACK}{call.call_id}", tool.name, msgspec.json.encode(given).decode())


async def _carried_out(
    turn: TurnContext, call: ToolCall, tool: Tool, ports: JournaledCalls, executor: ToolExecutor
) -> str | None:
    """None, or why it did not take anything back."""
    calls = Calls({tool.name: tool}, turn.message.id, ports, executor)
    done: ToolMessage | UnknownOutcome | None
    if (done := calls.replayed(call)) is None:
        judged = calls.judge(call)
        if isinstance(judged, ToolOutcome):
            done = await calls.settle(call, judged)
        elif (done := calls.doubt(call, tool)) is None:
            await turn.journal.keep({f"{START}{call.call_id}": b""}, starts=True, compensates=True)
            done = await calls.run(call, tool)
    if isinstance(done, UnknownOutcome):
        return str(done)
    return done.content if done.failed else None
