"""From an AgentSpec to what its turns use."""

import msgspec
import pytest
from google.protobuf.duration_pb2 import Duration

from troupe.chassis.errors import InvalidArgument
from troupe.dataplane.agent.config import AgentConfig
from troupe.dataplane.tools.tool import tool
from troupe.v1 import resource_pb2

CLERK = resource_pb2.Metadata(name="clerk", labels={"team": "sales"})


@tool
async def weather(city: str) -> str:
    """Tomorrow's weather."""
    return city


def test_what_a_spec_leaves_out_takes_the_documented_defaults() -> None:
    config = AgentConfig.from_spec(CLERK, resource_pb2.AgentSpec(model="m"), {})
    assert (config.name, config.namespace, config.resource) == ("clerk", "default", "Agent/default/clerk")
    assert (config.max_steps, config.max_repeated_calls, config.context_tokens) == (16, 3, 32_768)
    assert (config.turn_deadline, config.temperature, config.max_output_tokens) == (600.0, None, None)
    assert (config.system("s1"), config.declarations) == ("", ())


def test_what_a_spec_says_is_taken() -> None:
    spec = resource_pb2.AgentSpec(
        model="m",
        system_prompt="{{ agent }} of {{ labels.team }} in {{ session }}",
        tools=["weather"],
        max_steps=2,
        max_repeated_calls=1,
        context_tokens=256,
        temperature=0.0,
        max_output_tokens=9,
        turn_deadline=Duration(seconds=1, nanos=500_000_000),
    )
    config = AgentConfig.from_spec(CLERK, spec, {"weather": weather})
    assert config.system("s1") == "clerk of sales in s1"
    assert (config.max_steps, config.max_repeated_calls, config.context_tokens) == (2, 1, 256)
    assert (config.turn_deadline, config.temperature, config.max_output_tokens) == (1.5, 0.0, 9)
    (declared,) = config.declarations
    assert (declared.name, declared.description) == ("weather", "Tomorrow's weather.")
    assert msgspec.json.decode(declared.parameters)["properties"] == {"city": {"type": "string"}}


def test_prompt_and_declarations_are_part_of_the_budget() -> None:
    bare = AgentConfig.from_spec(CLERK, resource_pb2.AgentSpec(model="m"), {})
    assert bare.window("").fixed == 0
    told = AgentConfig.from_spec(CLERK, resource_pb2.AgentSpec(model="m", tools=["weather"]), {"weather": weather})
    assert told.window("").fixed > 30
    assert told.window("x" * 300).fixed == told.window("").fixed + 100


def test_tools_are_known_by_reference_and_told_by_name() -> None:
    spec = resource_pb2.AgentSpec(model="m", tools=["shop/weather"])
    assert list(AgentConfig.from_spec(CLERK, spec, {"shop/weather": weather}).tools) == ["weather"]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (resource_pb2.AgentSpec(tools=["wether"]), "TOOL_UNKNOWN"),
        (resource_pb2.AgentSpec(tools=["a/weather", "b/weather"]), "TOOL_NAME_TAKEN"),
        (resource_pb2.AgentSpec(system_prompt="{{ nobody }}"), "BAD_TEMPLATE"),
    ],
)
def test_a_spec_that_cannot_be_used_names_the_agent(spec: resource_pb2.AgentSpec, reason: str) -> None:
    with pytest.raises(InvalidArgument, match="Agent/default/clerk") as raised:
        AgentConfig.from_spec(CLERK, spec, {"a/weather": weather, "b/weather": weather})
    assert (raised.value.reason, raised.value.resource) == (reason, "Agent/default/clerk")
