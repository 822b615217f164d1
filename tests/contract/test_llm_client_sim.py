"""The model client, and whole turns, against the simulator."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from support.turns import ScriptedPorts

from troupe.chassis.errors import FailedPrecondition, TroupeError
from troupe.chassis.settings import SecretStr
from troupe.dataplane.agent.config import AgentConfig
from troupe.dataplane.agent.conversation import ModelAnswer, UserMessage
from troupe.dataplane.agent.turn import run_turn
from troupe.dataplane.llm.client import LlmConnections, ModelClient
from troupe.dataplane.llm.endpoint import ModelEndpoint, ModelTimeouts
from troupe.dataplane.llm.request import ModelRequest
from troupe.dataplane.llm.timings import ModelTimings
from troupe.dataplane.tools.arithmetic import calculator
from troupe.dataplane.tools.executor import InProcessExecutor
from troupe.llm_sim.process import LlmSim, running
from troupe.llm_sim.settings import LlmSimSettings
from troupe.v1 import turn_pb2

PATIENT = ModelTimeouts(connect=2.0, first_token=5.0, between_tokens=5.0, total=10.0)
HASTY = ModelTimeouts(connect=2.0, first_token=0.2, between_tokens=0.2, total=10.0)


@pytest.fixture
async def sim() -> AsyncIterator[LlmSim]:
    settings = LlmSimSettings(listen="127.0.0.1:0", ttft="constant:0.02", per_token="constant:0.001")
    async with running(settings) as serving:
        yield serving


@pytest.fixture
async def connections() -> AsyncIterator[LlmConnections]:
    async with LlmConnections() as opened:
        yield opened


async def say(client: ModelClient, text: str, timings: ModelTimings | None = None) -> tuple[ModelAnswer, list[str]]:
    shown: list[str] = []
    request = ModelRequest("", (UserMessage(text, "m1"),))
    async with asyncio.timeout(20):
        answer = await client.complete(request, shown.append, timings or ModelTimings())
    return answer, shown


async def test_an_answer_streams_and_is_counted(sim: LlmSim, connections: LlmConnections) -> None:
    timings = ModelTimings()
    answer, shown = await say(connections.client(ModelEndpoint(sim.url, "sim")), "count to 20", timings)
    assert answer.finish_reason == "stop"
    assert "".join(shown) == answer.text
    assert len(shown) > 1
    assert answer.usage.completion == 20
    first_token = timings.intervals()[2]
    assert first_token.cause == turn_pb2.LEDGER_CAUSE_MODEL_FIRST_TOKEN
    assert first_token.end - first_token.start >= 0.02


class ModelPorts(ScriptedPorts):
    """Ports whose model is real."""

    def __init__(self, client: ModelClient) -> None:
        super().__init__(())
        self.client = client

    async def complete(self, request: ModelRequest, step: int) -> ModelAnswer:
        self.requests.append(request)
        return await self.client.complete(request, lambda _: None, ModelTimings())


async def test_a_turn_computes_with_its_tool(sim: LlmSim, connections: LlmConnections) -> None:
    config = AgentConfig("clerk", tools={"calculator": calculator})
    client = connections.client(ModelEndpoint(sim.url, "sim"))
    first = UserMessage("What is 123456789 * 987654321, and what is 2 + 3?", "m1")
    result = await run_turn(first, (), config, ModelPorts(client), InProcessExecutor(), session="s")
    assert "121932631112635269" in result.text
    assert (result.usage.model_calls, result.usage.tool_calls) == (2, 2)
    assert result.usage.prompt_tokens > result.usage.completion_tokens > 0

    ports = ModelPorts(client)
    second = UserMessage("Multiply 12 by 7", "m2")
    following = await run_turn(second, result.entries, config, ports, InProcessExecutor(), session="s")
    assert "84" in following.text
    assert ports.requests[0].conversation == (*result.entries, second)
    assert following.usage.cached_prompt_tokens > 0


@pytest.mark.parametrize(
    ("fault", "timeouts", "reason", "retryable"),
    [
        ({"kind": "429", "retry_after": 1.5}, PATIENT, "MODEL_RATE_LIMITED", True),
        ({"kind": "500"}, PATIENT, "MODEL_ERROR", True),
        ({"kind": "503", "retry_after": 2}, PATIENT, "MODEL_ERROR", True),
        ({"kind": "cut"}, PATIENT, "MODEL_CUT", True),
        ({"kind": "half"}, PATIENT, "MODEL_CUT", True),
        ({"kind": "garbage"}, PATIENT, "MODEL_GARBAGE", True),
        ({"kind": "silence"}, HASTY, "MODEL_TIMEOUT", True),
        ({"kind": "stall"}, HASTY, "MODEL_TIMEOUT", True),
    ],
)
async def test_every_fault_has_its_error_and_the_next_call_is_well(
    sim: LlmSim,
    connections: LlmConnections,
    fault: dict[str, Any],
    timeouts: ModelTimeouts,
    reason: str,
    retryable: bool,
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(sim.url.removesuffix("/v1") + "/sim/faults", json=fault) as ordered,
    ):
        assert ordered.ok

    client = connections.client(ModelEndpoint(sim.url, "sim", timeouts=timeouts))
    with pytest.raises(TroupeError, match=sim.url) as raised:
        await say(client, "count to 20")
    assert (raised.value.reason, raised.value.retryable) == (reason, retryable)
    assert raised.value.retry_after == fault.get("retry_after")

    answer, _ = await say(client, "count to 20")
    assert answer.finish_reason == "stop"


async def test_an_unknown_model_is_refused_with_the_servers_words(sim: LlmSim, connections: LlmConnections) -> None:
    with pytest.raises(FailedPrecondition, match=r"404: .*nobody.*; check the Model's baseUrl") as raised:
        await say(connections.client(ModelEndpoint(sim.url, "nobody")), "hello")
    assert raised.value.reason == "MODEL_REFUSED"


async def test_a_wrong_key_is_refused_and_not_shown(connections: LlmConnections) -> None:
    settings = LlmSimSettings(listen="127.0.0.1:0", api_key=SecretStr("sk-right"))
    async with running(settings) as sim:
        with pytest.raises(FailedPrecondition, match="401") as raised:
            await say(connections.client(ModelEndpoint(sim.url, "sim", api_key="sk-wrong")), "hello")
        assert "sk-wrong" not in str(raised.value)
        answer, _ = await say(connections.client(ModelEndpoint(sim.url, "sim", api_key="sk-right")), "hello")
        assert answer.text
