"""The rules of a set of resources, one by one, and that no bytes break them."""

from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from support.fleets import actor, agent, fleet, model, resource, tool

from troupe.resources.kinds import SPECS
from troupe.resources.validation import MAX_RESOURCES, validate
from troupe.v1.resource_pb2 import (
    ActorSpec,
    AgentSpec,
    Isolation,
    Metadata,
    ModelSpec,
    ModelTimeouts,
    PythonTool,
    Resource,
    RetryPolicy,
    SecretRef,
    ToolSpec,
)


def told(*resources: Resource) -> list[str]:
    return [f"{violation.field}: {violation.description}" for violation in validate(resources)]


def agent_problem(**fields: Any) -> list[str]:
    spec = AgentSpec(**{"model": "default", **fields})
    return [text.removeprefix("Agent/default/clerk spec.") for text in told(model(), agent("clerk", spec))]


def seconds(value: int, nanos: int = 0) -> Duration:
    return Duration(seconds=value, nanos=nanos)


PYTHON = PythonTool(entry_point="a:b")


@pytest.mark.parametrize("name", ["a", "a-b", "0", "a" * 63, "default"])
def test_names_that_are_taken(name: str) -> None:
    assert told(model(name)) == []


@pytest.mark.parametrize("name", ["A", "-a", "a-", "a_b", "a" * 64, "a b", "ä", "a\n", "a/b"])
def test_names_that_are_refused(name: str) -> None:
    (problem,) = told(model(name))
    assert "is no name: 1 to 63 of a-z, 0-9 and -" in problem
    assert "\n" not in problem


def test_a_name_is_required_and_graph_is_reserved() -> None:
    assert told(model("")) == ["Model/default/ metadata.name: required"]
    assert told(actor("graph")) == ['Actor/default/graph metadata.name: "graph" is reserved for graph runs']


def test_namespaces_follow_the_same_pattern() -> None:
    assert told(model("m", namespace="other")) == []
    assert len(told(model("m", namespace="No"))) == 1


def test_agents_and_actors_share_one_name_space() -> None:
    assert told(model(), agent("x"), actor("x")) == [
        "Actor/default/x metadata.name: is taken by Agent/default/x: agents and actors share one name space"
    ]
    assert told(model(), agent("x"), actor("x", namespace="other"), tool("x"), model("x")) == []


def test_a_resource_twice_is_told_once() -> None:
    absent = Resource(kind="Model", metadata=Metadata(name="m"), spec=model("m").spec)
    assert told(model("m"), absent) == ["Model/default/m metadata.name: is in the set twice"]


def test_references_are_resolved_in_the_agents_namespace_or_by_the_whole_name() -> None:
    spec = AgentSpec(model="shared/big", tools=["t", "shared/u"])
    assert told(agent("a", spec, "team"), model("big", namespace="shared"), tool("t", namespace="team"),
                tool("u", namespace="shared")) == []  # fmt: skip


def test_a_missing_reference_suggests_the_nearest_or_the_same_name_elsewhere() -> None:
    found = told(agent("a", AgentSpec(model="defualt", tools=["calc"])), model(), tool("calc", namespace="shared"))
    assert found == [
        'Agent/default/a spec.model: there is no Model "defualt"; did you mean "default"?',
        'Agent/default/a spec.tools[0]: there is no Tool "calc"; did you mean "shared/calc"?',
    ]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"max_steps": 0}, "maxSteps: must be 1 to 1,000, not 0"),
        ({"max_steps": 1001}, "maxSteps: must be 1 to 1,000, not 1,001"),
        ({"context_tokens": 255}, "contextTokens: must be 256 to 10,000,000, not 255"),
        ({"temperature": 2.5}, "temperature: must be 0 to 2, not 2.5"),
        ({"temperature": float("nan")}, "temperature: must be 0 to 2, not nan"),
        ({"max_output_tokens": 0}, "maxOutputTokens: must be 1 to 4,294,967,295, not 0"),
        ({"max_repeated_calls": 101}, "maxRepeatedCalls: must be 1 to 100, not 101"),
        ({"turn_deadline": seconds(0, 999_999_999)}, "turnDeadline: must be 1s to 24h, not 999.999999ms"),
        ({"turn_deadline": seconds(86_401)}, "turnDeadline: must be 1s to 24h, not 86401s"),
        ({"turn_deadline": seconds(5, -1)}, "turnDeadline: must be 1s to 24h, not 5s"),
        ({"retry": RetryPolicy(max_retries=21)}, "retry.maxRetries: must be 0 to 20, not 21"),
        ({"retry": RetryPolicy(initial_delay=seconds(0))}, "retry.initialDelay: must be 1ms to 1h, not 0ms"),
        (
            {"retry": RetryPolicy(initial_delay=seconds(2))},
            "retry.initialDelay: maxDelay (1.6s) must be at least initialDelay (2s)",
        ),
        (
            {"retry": RetryPolicy(max_delay=seconds(0, 1_000_000))},
            "retry.maxDelay: maxDelay (1ms) must be at least initialDelay (100ms)",
        ),
        ({"model": ""}, "model: required: the name of a Model"),
    ],
)
def test_agents_limits(fields: dict[str, Any], problem: str) -> None:
    assert agent_problem(**fields) == [problem]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_steps": 1, "context_tokens": 256, "temperature": 0.0, "max_output_tokens": 1, "max_repeated_calls": 1},
        {"max_steps": 1000, "context_tokens": 10_000_000, "temperature": 2.0, "max_repeated_calls": 100},
        {"turn_deadline": seconds(1), "retry": RetryPolicy(max_retries=0, initial_delay=seconds(1))},
        {"turn_deadline": seconds(86_400), "retry": RetryPolicy(max_retries=20, max_delay=seconds(3600))},
    ],
)
def test_the_limits_themselves_are_taken(fields: dict[str, Any]) -> None:
    assert agent_problem(**fields) == []


def test_a_tool_is_given_at_most_once_by_the_name_that_the_model_sees() -> None:
    spec = AgentSpec(model="default", tools=["calculator", "other/calculator"])
    found = told(model(), tool(), tool(namespace="other"), agent("a", spec))
    assert found == [
        'Agent/default/a spec.tools[1]: the model would see two tools named "calculator": this and tools[0]'
    ]


def test_at_most_128_tools() -> None:
    tools = [tool(f"t{index}") for index in range(129)]
    spec = AgentSpec(model="default", tools=[one.metadata.name for one in tools])
    assert told(model(), *tools, agent("a", spec)) == [
        "Agent/default/a spec.tools: has 129 entries, at most 128 are taken"
    ]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (ModelSpec(base_url="ftp://host/v1"), "baseUrl: must be an http or https URL"),
        (ModelSpec(base_url="http://"), "baseUrl: must be an http or https URL"),
        (ModelSpec(base_url="http://host:port/v1"), "baseUrl: is no URL"),
        (ModelSpec(base_url="http://a b/v1"), "baseUrl: must be an http or https URL"),
        (ModelSpec(max_concurrency=0), "maxConcurrency: must be 1 to 100,000, not 0"),
        (ModelSpec(timeouts=ModelTimeouts(total=seconds(90_000))), "timeouts.total: must be 1ms to 24h, not 25h"),
        (ModelSpec(api_key=SecretRef(file="")), "apiKey.file: must be the path of a file on the worker"),
        (ToolSpec(), "python: required: where the tool comes from"),
        (ToolSpec(python=PythonTool()), "python.entryPoint: required: package.module:attribute"),
        (ToolSpec(python=PYTHON, timeout=seconds(0)), "timeout: must be 1ms to 24h, not 0ms"),
        (
            ToolSpec(python=PYTHON, isolation=Isolation.ISOLATION_PROCESS),
            "isolation: ISOLATION_PROCESS is not built yet",
        ),
        (ToolSpec(python=PYTHON, isolation=9), "isolation: 9 is no value"),  # type: ignore[arg-type]
        (ActorSpec(), "entryPoint: required: package.module:attribute"),
        (ActorSpec(entry_point="a.b"), 'entryPoint: must have the form package.module:attribute, not "a.b"'),
        (ActorSpec(entry_point="1a:b"), "entryPoint: must have the form"),
        (ActorSpec(entry_point="a:b\n"), "entryPoint: must have the form"),
    ],
)
def test_limits_of_the_other_kinds(spec: Message, problem: str) -> None:
    kind = next(kind for kind, known in SPECS.items() if isinstance(spec, known))
    (found,) = told(resource(kind, "x", spec))
    assert found.startswith(f"{kind}/default/x spec.{problem}")


def test_labels_and_annotations_are_bounded() -> None:
    labels = {f"k{index}": "v" for index in range(33)}
    assert told(resource("Model", "m", ModelSpec(), labels=labels)) == [
        "Model/default/m metadata.labels: has 33 entries, at most 32 are taken"
    ]
    assert told(resource("Model", "m", ModelSpec(), labels={"k" * 64: "v", "l": "ä" * 32})) == [
        f"Model/default/m metadata.labels.{'k' * 64}: its key must have 1 to 63 bytes",
        "Model/default/m metadata.labels.l: must have at most 63 bytes",
    ]
    long = model("m")
    long.metadata.annotations["a"] = "x" * 65_536
    assert told(long) == ["Model/default/m metadata.annotations: have 65,537 bytes, at most 65,536 are taken"]


def test_a_spec_must_belong_to_its_kind_and_be_readable() -> None:
    assert "does not belong to kind Model" in told(resource("Model", "m", ToolSpec()))[0]
    assert told(resource("Modell", "m", ModelSpec())) == [
        'Modell/default/m kind: is not known; use Agent, Actor, Model, Tool; did you mean "Model"?'
    ]
    broken = model("m")
    broken.spec.value = b"\xff\xff"
    assert told(broken) == ["Model/default/m spec: its bytes are no troupe.v1.ModelSpec"]
    bare = Resource(kind="Model", metadata=Metadata(name="m"), spec=AnyMessage(type_url="troupe.v1.ModelSpec"))
    assert len(told(bare)) == 1, "a type URL has a slash"


def test_fields_of_a_newer_version_are_refused_instead_of_ignored() -> None:
    newer = agent("a")
    newer.spec.value += b"\xf8\x07\x01"  # field 127, varint 1
    assert told(model(), newer) == [
        "Agent/default/a spec: has fields that this version does not know (numbers 127); update it first"
    ]


def test_more_than_ten_thousand_resources_are_one_violation() -> None:
    (found,) = told(*[model()] * (MAX_RESOURCES + 1))
    assert found == "resources: 10,001 are too many, at most 10,000 are taken"


def test_a_large_set_in_which_every_reference_is_wrong_costs_no_square() -> None:
    wrong = [agent(f"a{index}", AgentSpec(model=f"m{index}")) for index in range(2_000)]
    models = [model(f"model-{index}") for index in range(2_000)]
    found = told(*models, *wrong)
    assert len(found) == 2_000
    assert sum("did you mean" in text for text in found) <= 20


TEXT = st.text(max_size=8)


@given(
    st.lists(
        st.builds(
            lambda kind, name, namespace, url, value: Resource(
                kind=kind, metadata=Metadata(name=name, namespace=namespace), spec=AnyMessage(type_url=url, value=value)
            ),
            st.sampled_from([*SPECS, "", "Agent/x"]) | TEXT,
            TEXT,
            TEXT,
            st.sampled_from([f"type.googleapis.com/{spec.DESCRIPTOR.full_name}" for spec in SPECS.values()]) | TEXT,
            st.binary(max_size=40),
        ),
        max_size=4,
    )
)
def test_no_bytes_break_the_rules_and_each_violation_is_one_line(resources: list[Resource]) -> None:
    for violation in validate([*fleet(), *resources]):
        assert violation.description
        assert violation.field.count(" ") <= 1
        assert "\n" not in violation.field + violation.description


def test_tools_of_actors_and_compensations_must_be_there() -> None:
    calling = actor("till", ActorSpec(entry_point="a:b", tools=["book", "bank/pay"]))
    booking = tool("book", ToolSpec(python=PYTHON, compensation="relase"))
    assert told(calling, booking, tool("release")) == [
        'Actor/default/till spec.tools[1]: there is no Tool "pay" in namespace bank',
        'Tool/default/book spec.compensation: there is no Tool "relase"; did you mean "release"?',
    ]
    there = tool("book", ToolSpec(python=PYTHON, compensation="release"))
    assert told(calling, there, tool("release"), tool("pay", namespace="bank")) == []


def test_an_actor_cannot_tell_tools_of_one_name_apart() -> None:
    twice = actor("till", ActorSpec(entry_point="a:b", tools=["pay", "bank/pay"]))
    assert told(twice, tool("pay"), tool("pay", namespace="bank")) == [
        'Actor/default/till spec.tools[1]: the actor would see two tools named "pay": this and tools[0]'
    ]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"retention": seconds(60)}, ""),
        ({"retention": seconds(59)}, "retention: must be 1m to 87660h, not 59s"),
        ({"retention": seconds(10 * 8_766 * 3_600)}, ""),
        ({"retention": seconds(10 * 8_766 * 3_600, 1)}, "retention: must be 1m to 87660h, not 315576000s"),
        ({"unknown_outcome": 2}, ""),
        ({"unknown_outcome": 3}, "unknownOutcome: 3 is no value of it that this version knows"),
        ({"max_batch": 1_000}, ""),
        ({"max_batch": 0}, "maxBatch: must be 1 to 1,000, not 0"),
        ({"max_batch": 1_001}, "maxBatch: must be 1 to 1,000, not 1,001"),
    ],
)
def test_limits_of_actors(fields: dict[str, Any], problem: str) -> None:
    found = told(actor("till", ActorSpec(entry_point="a:b", **fields)))
    assert found == ([f"Actor/default/till spec.{problem}"] if problem else [])


@pytest.mark.parametrize("field", ["retention", "unknown_outcome"])
def test_agents_have_the_same_limits(field: str) -> None:
    value = {"retention": seconds(1), "unknown_outcome": 7}[field]
    (problem,) = agent_problem(**{field: value})
    assert problem.startswith(("retention: must be", "unknownOutcome: 7 is no value"))
