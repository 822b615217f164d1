"""An agent's turn on the runtime's journal: who is asked about a call, what is taken back, when a snapshot is made."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
from support.attempts import Attempts, Suspended

from troupe.broker.retry import RetryPolicy
from troupe.dataplane.actors.behaviour import TurnResult
from troupe.dataplane.agent import history
from troupe.dataplane.agent.config import AgentConfig
from troupe.dataplane.agent.conversation import AssistantMessage, ModelAnswer, UserMessage
from troupe.dataplane.behaviours.agent import SNAPSHOT_EVERY, AgentBehaviour
from troupe.dataplane.llm.request import ModelRequest
from troupe.dataplane.tools.call import ToolCall
from troupe.dataplane.tools.executor import InProcessExecutor
from troupe.dataplane.tools.tool import Tool, tool
from troupe.v1.turn_pb2 import LEDGER_CAUSE_TOOL

DONE = list[str]()


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    DONE.clear()


@tool
async def book(what: str) -> dict[str, str]:
    """Book something."""
    DONE.append(f"book {what}")
    return {"number": f"n-{what}"}


@tool
async def release(arguments: dict[str, str], result: dict[str, str]) -> str:
    """Take a booking back."""
    DONE.append(f"release {arguments['what']} {result['number']}")
    return "released"


class Model:
    """Answers the turn's n-th call with `script[n]`, else with how many entries it was shown."""

    def __init__(self, *script: ModelAnswer) -> None:
        self.script, self.requests = script, list[ModelRequest]()
        self.endpoint = type("Endpoint", (), {"model": "scripted"})

    async def complete(self, request: ModelRequest, show: Callable[[str], None], timings: Any) -> ModelAnswer:
        self.requests.append(request)
        step = sum(isinstance(entry, AssistantMessage) and bool(entry.tool_calls) for entry in request.conversation)
        return self.script[step] if step < len(self.script) else ModelAnswer("done")


def asking(step: int, *calls: str) -> ModelAnswer:
    made = tuple(ToolCall(f"c{step}-{what}", "book", f'{{"what": "{what}"}}') for what in calls)
    return ModelAnswer("", made, "tool_calls")


def behaviour(attempts: Attempts, model: Model, **options: Any) -> AgentBehaviour:
    tools: dict[str, Tool] = {"book": book}
    return AgentBehaviour(
        revision_id="r1",
        generation=1,
        config=AgentConfig("clerk", tools=tools, **options),
        model=cast(Any, model),
        compensations={"book": release},
        retry=RetryPolicy(),
        executor=InProcessExecutor(),
        clock=attempts.clock,
    )


async def test_what_a_cancelled_turn_has_done_is_taken_back_newest_answer_and_call_first() -> None:
    attempts = Attempts()
    clerk = behaviour(attempts, Model(asking(0, "a", "b"), asking(1, "c")))
    await clerk.run(attempts.begun())
    assert sorted(DONE) == ["book a", "book b", "book c"]
    DONE.clear()
    await clerk.compensate(attempts.begun())
    assert DONE == ["release c n-c", "release b n-b", "release a n-a"]


async def test_a_person_is_asked_what_a_call_came_to_where_the_agent_says_so() -> None:
    attempts = Attempts(refuses={1: OSError("the worker dies")})
    model = Model(asking(0, "a"))
    clerk = behaviour(attempts, model, asks=True)
    with pytest.raises(OSError, match="the worker dies"):
        await clerk.run(attempts.begun())
    with pytest.raises(Suspended) as waits:
        await clerk.run(attempts.begun())
    assert waits.value.promise_ids == {"m1/unknown-outcome/c0-a"}
    attempts.settle("m1/unknown-outcome/c0-a", "it was booked")
    assert (await clerk.run(attempts.begun())).reply.text == "done"
    assert getattr(model.requests[-1].conversation[-1], "content") == "it was booked"  # noqa: B009
    assert DONE == ["book a"]


class SlowJournal(Attempts):
    """Every write takes a second."""

    async def keep(self, steps: Mapping[str, bytes], **options: Any) -> None:
        await super().keep(steps, **options)
        self.clock.advance(1)


async def test_the_ledger_has_a_tools_time_where_the_tool_ran_and_not_in_the_writing_of_its_result() -> None:
    attempts = SlowJournal()
    turn, began = attempts.begun(), attempts.clock.monotonic()
    await behaviour(attempts, Model(asking(0, "a"))).run(turn)
    (ran,) = [interval for interval in turn.ledger.intervals if interval.cause == LEDGER_CAUSE_TOOL]
    assert len(attempts.writes) == 2, "the answer before the tool runs, its result behind"
    assert ran.start < ran.end == began + 1


async def test_a_history_gets_a_snapshot_so_that_no_more_than_fifty_deltas_are_read() -> None:
    attempts, model = Attempts(), Model()
    clerk = behaviour(attempts, model)
    snapshot, deltas, most = b"", list[bytes](), 0
    for turn in range(2 * SNAPSHOT_EVERY + 5):
        attempts.text = f"question {turn}"
        most = max(most, len(deltas))
        result = await clerk.run(attempts.begun(snapshot=snapshot, history=deltas))
        deltas.append(result.delta or b"")
        if result.snapshot is not None:
            snapshot, deltas = result.snapshot, []
    assert most == SNAPSHOT_EVERY - 1
    shown = [entry.text for entry in model.requests[-1].conversation if isinstance(entry, UserMessage)]
    assert shown == [f"question {turn}" for turn in range(2 * SNAPSHOT_EVERY + 5)]


async def test_a_snapshot_leaves_out_what_no_prompt_can_show_and_the_next_prompt_is_the_same_without_it() -> None:
    attempts = Attempts(text="x" * 300)
    model = Model()
    clerk = behaviour(attempts, model, context_tokens=2_000)
    turn = history.encode((UserMessage("y" * 300, "m0"), AssistantMessage("z" * 30, "m0")))
    many = [turn] * (SNAPSHOT_EVERY - 1)
    result: TurnResult = await clerk.run(attempts.begun(history=many))
    assert result.snapshot is not None
    assert len(history.decode(result.snapshot)) < 50
    with_it, without = attempts.begun(snapshot=result.snapshot), attempts.begun(history=[*many, result.delta or b""])
    for context in (with_it, without):
        await clerk.run(replace(context, journal=Attempts()))
    assert model.requests[-1].conversation == model.requests[-2].conversation
