"""A tool's result is written while the model is asked what follows from it: nothing comes of the answer before."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from support.hosting import Backends, Listener, Worker, until
from support.scripted_behaviour import Gate

from troupe.broker.retry import RetryPolicy
from troupe.chassis.clock import SystemClock
from troupe.chassis.errors import Unavailable
from troupe.dataplane.agent.config import AgentConfig
from troupe.dataplane.agent.conversation import ModelAnswer
from troupe.dataplane.behaviours.agent import AgentBehaviour
from troupe.dataplane.llm.request import ModelRequest
from troupe.dataplane.state.session import Owner
from troupe.dataplane.tools.call import ToolCall, ToolMessage
from troupe.dataplane.tools.executor import InProcessExecutor
from troupe.dataplane.tools.tool import tool
from troupe.v1 import turn_pb2

FAST = ["accepted", "started", "tool_call_started"]
"""What a listener has seen once the tool has started."""


class Model:
    """Asks for the tools `first` and `second`, one after the other, and then says the last of their results. What it
    says of `first` it shows at once; `answering` then holds it."""

    def __init__(self) -> None:
        self.endpoint = type("Endpoint", (), {"model": "scripted"})
        self.answering = Gate()
        self.answering.open.set()
        self.fails: list[Exception] = []

    async def complete(self, request: ModelRequest, show: Callable[[str], None], timings: Any) -> ModelAnswer:
        *_, last = request.conversation
        if not isinstance(last, ToolMessage):
            return asking("first")
        if last.tool == "second":
            return ModelAnswer(last.content)
        show("It says so. ")
        await self.answering(cast(Any, None))
        if self.fails:
            raise self.fails.pop()
        return asking("second")


def asking(name: str) -> ModelAnswer:
    return ModelAnswer("", (ToolCall(f"c-{name}", name, "{}"),), "tool_calls")


class Clerk:
    """An agent with that model. `acted` are the tools, each time that they did, and what took them back."""

    def __init__(self, *, idempotent: bool = False) -> None:
        self.acted = list[str]()
        self.model = Model()

        async def first() -> str:
            """The first tool."""
            self.acted.append("first")
            return "one"

        async def second() -> str:
            """The second tool."""
            self.acted.append("second")
            return "two"

        async def undo(arguments: dict[str, str], result: str) -> str:
            """What takes the first back."""
            self.acted.append(f"undo {result}")
            return "undone"

        self.behaviour = AgentBehaviour(
            revision_id="r1",
            generation=1,
            config=AgentConfig(
                "clerk", tools={each.__name__: tool(idempotent=idempotent)(each) for each in (first, second)}
            ),
            model=cast(Any, self.model),
            compensations={"first": tool(undo)},
            retry=RetryPolicy(3, 0.01, 0.04),
            executor=InProcessExecutor(),
            clock=SystemClock(),
        )


class SlowWrite:
    """Holds the writing of the first tool's result before the store has it."""

    def __init__(self, worker: Worker) -> None:
        self.reached, self.open = asyncio.Event(), asyncio.Event()
        worker.store_line.before["journal"] = self._hold

    async def _hold(self, *args: Any) -> None:
        steps: Mapping[str, bytes] = args[3]
        if "result/c-first" in steps:
            self.reached.set()
            await self.open.wait()


@asynccontextmanager
async def writing(backends: Backends, clerk: Clerk) -> AsyncIterator[tuple[Worker, Listener, SlowWrite]]:
    """The model has the first tool's result, and the store does not."""
    async with backends.worker(clerk.behaviour) as worker:
        write = SlowWrite(worker)
        async with worker.conversation("go", message_id="m") as listener, asyncio.timeout(10):
            await write.reached.wait()
            await clerk.model.answering.entered.wait()
            yield worker, listener, write


async def test_an_answer_that_is_faster_than_the_store_is_not_shown_nor_acted_on_before_the_result_is_kept(
    backends: Backends,
) -> None:
    clerk = Clerk()
    async with writing(backends, clerk) as (_, listener, write):
        await clerk.model.answering.left.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        assert listener.kinds == FAST
        assert clerk.acted == ["first"]
        write.open.set()
        end = await listener.end()
    assert end.completed.result.text == "two"
    assert clerk.acted == ["first", "second"]
    shown = [kind for kind in listener.kinds if kind != "accepted"]
    assert shown[2:5] == ["tool_call_finished", "token_delta", "tool_call_started"]
    assert [event.sequence for event in listener.events[1:]] == list(range(1, len(shown) + 1))


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_result_that_a_kill_took_is_unknown_and_so_is_what_the_model_made_of_it(
    backends: Backends, idempotent: bool
) -> None:
    clerk = Clerk(idempotent=idempotent)
    async with writing(backends, clerk) as (worker, listener, _):
        await clerk.model.answering.left.wait()
        await worker.kill()
    assert listener.kinds == FAST
    async with backends.worker(clerk.behaviour) as worker:
        status = await worker.end_of("m")
    if idempotent:
        assert status.fate == turn_pb2.FATE_DONE
        assert clerk.acted == ["first", "first", "second"]
    else:
        assert (status.fate, status.error.reason) == (turn_pb2.FATE_DEAD, "UNKNOWN_OUTCOME")
        assert clerk.acted == ["first"]


async def test_a_write_that_another_owner_refuses_ends_the_model_call_at_once(backends: Backends) -> None:
    clerk = Clerk()
    clerk.model.answering.open.clear()
    async with writing(backends, clerk) as (worker, listener, write):
        await worker.real_store.claim(Owner(0, worker.owner.epoch + 1, "another"))
        write.open.set()
        await clerk.model.answering.left.wait()
        await until(lambda: worker.host.owner(0) is None)
        assert "token_delta" not in listener.kinds


async def test_a_cancelled_turn_takes_back_what_it_did_though_its_result_was_not_kept_yet(backends: Backends) -> None:
    clerk = Clerk()
    clerk.model.answering.open.clear()
    async with writing(backends, clerk) as (worker, listener, _):
        worker.store_line.before.clear()
        assert await worker.control("CANCEL", "m") == "APPLIED"
        await clerk.model.answering.left.wait()
        assert (await listener.end()).failed.fate == turn_pb2.FATE_CANCELLED
    assert clerk.acted == ["first", "undo one"]
    assert "token_delta" not in listener.kinds


async def test_a_result_is_kept_though_the_model_fails_meanwhile(backends: Backends) -> None:
    clerk = Clerk()
    clerk.model.fails = [Unavailable("MODEL_CUT", "the stream broke")]
    async with writing(backends, clerk) as (_, listener, write):
        await clerk.model.answering.left.wait()
        write.open.set()
        assert (await listener.end()).completed.result.text == "two"
    assert clerk.acted == ["first", "second"], "the next attempt finds the result"


async def test_a_result_is_kept_though_its_turn_runs_out_of_time_meanwhile(backends: Backends) -> None:
    clerk = Clerk()
    async with writing(backends, clerk) as (worker, listener, _):
        worker.store_line.before.clear()
        turn = worker.actor().turn
        assert turn is not None
        assert turn.scope is not None
        turn.scope.reschedule(0.0)
        assert (await listener.end()).completed.result.text == "two"
    (sealed,) = [event.sealed for event in listener.events if event.WhichOneof("kind") == "sealed"]
    assert sealed.error.reason == "TURN_DEADLINE"
    assert clerk.acted == ["first", "second"], "the next attempt finds the result"
