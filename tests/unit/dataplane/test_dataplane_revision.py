"""Resources made ready: what actors, agents and tools say of themselves, and references between them."""

from typing import Any, cast

import pytest
from google.protobuf.duration_pb2 import Duration
from support.fleets import actor, agent, model, tool

from troupe.chassis.clock import SystemClock
from troupe.chassis.errors import InvalidArgument
from troupe.dataplane.behaviours.actor import ActorBehaviour
from troupe.dataplane.behaviours.agent import AgentBehaviour
from troupe.dataplane.llm.client import LlmConnections
from troupe.dataplane.revision import MAX_BATCH, Endpoint, Revision, prepare
from troupe.dataplane.state.session import RETENTION
from troupe.v1.resource_pb2 import (
    UNKNOWN_OUTCOME_POLICY_PROMISE,
    ActorSpec,
    AgentSpec,
    ConfigSpec,
    PythonTool,
    Resource,
    ToolSpec,
)


def prepared(*resources: Resource, connections: LlmConnections | None = None) -> Revision:
    config = ConfigSpec(revision_id="r1", generation=1, resources=resources)
    return prepare(config, connections or LlmConnections(), Endpoint("http://localhost/v1", "m"), SystemClock())


def desk(name: str, **fields: Any) -> Resource:
    entry = name.replace("-", "_")
    return tool(name, ToolSpec(python=PythonTool(entry_point=f"support.desk_tools:{entry}"), **fields))


def till(entry: str = "Plain", **fields: Any) -> Resource:
    return actor("till", ActorSpec(entry_point=f"support.desk_tools:{entry}", **fields))


def behaviour(*resources: Resource) -> ActorBehaviour:
    return cast(ActorBehaviour, prepared(*resources).behaviours["default", "till"])


TAKE, GIVE_BACK, LOOK = desk("take"), desk("give-back"), desk("look")


def test_an_actor_has_its_tools_and_what_takes_their_calls_back() -> None:
    found = behaviour(TAKE, GIVE_BACK, LOOK, till(tools=["take", "look"]))
    assert list(found.tools) == ["take", "look"]
    assert {name: one.resource for name, one in found.compensations.items()} == {"take": "Tool/default/give-back"}


def test_what_a_tool_names_for_its_compensation_goes_before_what_its_function_does() -> None:
    other = tool("other", ToolSpec(python=PythonTool(entry_point="support.desk_tools:give_back")), "bank")
    found = behaviour(desk("take", compensation="bank/other"), other, till(tools=["take"]))
    assert found.compensations["take"].resource == "Tool/bank/other"


async def test_an_agent_has_the_same() -> None:
    spec = AgentSpec(
        model="default",
        tools=["take"],
        retention=Duration(seconds=90),
        unknown_outcome=UNKNOWN_OUTCOME_POLICY_PROMISE,
    )
    async with LlmConnections() as connections:
        revision = prepared(TAKE, GIVE_BACK, model(), agent("a", spec), connections=connections)
    found = cast(AgentBehaviour, revision.behaviours["default", "a"])
    assert (list(found.compensations), found.retention, found.config.asks) == (["take"], 90.0, True)


@pytest.mark.parametrize(
    ("resources", "reason", "why"),
    [
        ([TAKE], "MISSING_REFERENCE", "Tool/default/take refers to Tool/default/give-back"),
        ([desk("take", compensation="look"), LOOK], "BAD_COMPENSATION", r"and takes \(what\)"),
        ([till(tools=["look"])], "MISSING_REFERENCE", "Actor/default/till refers to Tool/default/look"),
        ([till("Backward")], "BAD_UPCASTERS", "Actor/default/till: state of schema 3 needs an upcaster"),
    ],
)
def test_what_cannot_run_is_refused_whole_and_named(resources: list[Resource], reason: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why) as raised:
        prepared(*resources)
    assert raised.value.reason == reason


def test_an_actor_says_what_it_differs_in_and_has_defaults_for_the_rest() -> None:
    plain = behaviour(till())
    assert (plain.max_batch, plain.retention, plain.asks, plain.deadline) == (1, RETENTION, False, 600.0)
    assert behaviour(till("Batching")).max_batch == MAX_BATCH
    own = behaviour(
        till("Batching", max_batch=7, retention=Duration(seconds=90), unknown_outcome=UNKNOWN_OUTCOME_POLICY_PROMISE)
    )
    assert (own.max_batch, own.retention, own.asks) == (7, 90.0, True)
    assert behaviour(till(max_batch=7)).max_batch == 1, "a class without receive_batch takes one at a time"
