"""Manifests: what is read, and how each mistake is told."""

import pytest
from support.fleets import agent, fleet, model

from troupe.chassis.errors import Violation
from troupe.resources.content import key
from troupe.resources.durations import canonical
from troupe.resources.manifest import located, parse, parse_all
from troupe.resources.manifest_errors import InvalidManifest
from troupe.resources.validation import validate
from troupe.v1.resource_pb2 import AgentSpec, Isolation, ModelSpec, ToolSpec

CLERK = """\
apiVersion: troupe.dev/v1
kind: Agent
metadata:
  name: clerk
  labels: {tier: front}
spec:
  model: default
  systemPrompt: |
    You are a clerk.
    Be brief.
  tools:
    - calculator
    - shared/search
  maxSteps: 4
  turnDeadline: 5m
  temperature: 0.5
"""


def mistakes(content: str | bytes) -> list[str]:
    with pytest.raises(InvalidManifest) as raised:
        parse(content, "f.yaml")
    return [str(error) for error in raised.value.errors]


def spec_mistakes(kind: str, spec: str) -> list[str]:
    """The mistakes in a flow-style spec, without their place."""
    found = mistakes(f"apiVersion: troupe.dev/v1\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n")
    return [text.partition(": ")[2] for text in found]


def test_a_manifest_becomes_a_resource_with_the_line_of_each_field() -> None:
    (declared,) = parse(CLERK, "clerk.yaml")
    spec = AgentSpec()
    assert declared.resource.spec.Unpack(spec)
    assert str(key(declared.resource)) == "Agent/default/clerk"
    assert dict(declared.resource.metadata.labels) == {"tier": "front"}
    assert (spec.model, list(spec.tools), spec.max_steps) == ("default", ["calculator", "shared/search"], 4)
    assert spec.system_prompt == "You are a clerk.\nBe brief.\n"
    assert (spec.turn_deadline.seconds, spec.temperature) == (300, 0.5)
    line = declared.source.line
    assert [line(path) for path in ("", "metadata.labels.tier", "spec.tools", "spec.tools[1]")] == [1, 5, 11, 13]
    assert line("spec.retry.maxDelay") == 6, "what is absent is where it would have to be added"


def test_several_documents_keep_their_order() -> None:
    both = parse(f"{CLERK}---\napiVersion: troupe.dev/v1\nkind: Model\nmetadata: {{name: default}}\nspec: {{}}\n", "f")
    assert [str(key(one.resource)) for one in both] == ["Agent/default/clerk", "Model/default/default"]
    assert both[1].source.line("metadata.name") == 20


def test_anchors_are_read_and_null_means_absent() -> None:
    text = """\
apiVersion: troupe.dev/v1
kind: Model
metadata: {name: a, namespace: null}
spec:
  timeouts: {connect: &short 500ms, firstToken: *short, total: null}
  maxConcurrency: 7
  apiKey: {env: KEY}
"""
    (declared,) = parse(text, "f.yaml")
    spec = ModelSpec()
    assert declared.resource.spec.Unpack(spec)
    assert declared.resource.metadata.namespace == "default"
    assert spec.timeouts.first_token.nanos == 500_000_000
    assert not spec.timeouts.HasField("total")
    assert (spec.max_concurrency, spec.api_key.env) == (7, "KEY")


def test_the_enum_and_the_boolean_of_a_tool() -> None:
    (declared,) = parse(
        "apiVersion: troupe.dev/v1\nkind: Tool\nmetadata: {name: a}\n"
        "spec: {python: {entryPoint: 'a.b:c'}, idempotent: true, isolation: ISOLATION_INPROCESS}",
        "f.yaml",
    )
    spec = ToolSpec()
    assert declared.resource.spec.Unpack(spec)
    assert (spec.idempotent, spec.isolation) == (True, Isolation.ISOLATION_INPROCESS)


def test_an_unknown_field_is_told_with_file_line_path_and_the_nearest_name() -> None:
    with pytest.raises(InvalidManifest) as raised:
        parse(CLERK.replace("model:", "modle:"), "examples/first-fleet/clerk.yaml")
    first = raised.value.errors[-1]
    assert str(first) == 'examples/first-fleet/clerk.yaml:7: spec.modle: unknown field; did you mean "model"?'
    assert (first.line, first.column, first.path, first.suggestion) == (7, 3, "spec.modle", "model")
    assert raised.value.reason == "INVALID_MANIFEST"


def test_all_mistakes_of_all_files_are_told_at_once_in_order() -> None:
    with pytest.raises(InvalidManifest) as raised:
        parse_all(
            [
                (
                    "a.yaml",
                    CLERK.replace("maxSteps: 4", "max_steps: 4").replace("temperature: 0.5", "temperature: hot"),
                ),
                ("b.yaml", "kind: Agnet"),
                ("c.yaml", CLERK),
            ]
        )
    assert [str(error) for error in raised.value.errors] == [
        'a.yaml:14: spec.max_steps: unknown field; did you mean "maxSteps"?',
        "a.yaml:16: spec.temperature: a number is expected, not text",
        "b.yaml:1: apiVersion: required",
        "b.yaml:1: metadata: required",
        "b.yaml:1: spec: required; {} takes every default",
        'b.yaml:1: kind: "Agnet" is not known; use Agent, Actor, Model, Tool; did you mean "Agent"?',
    ]
    assert str(raised.value).endswith("(and 5 more)")


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("{model: [a]}", "spec.model: text is expected, not a list"),
        ("{model: 12}", 'spec.model: text is expected, not a number; quote it: "12"'),
        ("{model: yes}", 'spec.model: text is expected, not true or false; quote it: "yes"'),
        ("{model: 2024-01-01}", 'spec.model: text is expected, not a date; quote it: "2024-01-01"'),
        ('{model: "\\ud800"}', "spec.model: it holds half a surrogate pair, which is no Unicode text"),
        ("{model: !mine a}", "spec.model: the tag !mine is not taken; write plain values"),
        ("{model: a, tools: b}", "spec.tools: a list is expected, not text; begin each entry with a dash"),
        ("{model: a, tools: [null]}", "spec.tools[0]: text is expected, not nothing"),
        ("{model: a, retry: 3}", "spec.retry: a mapping is expected, not a number"),
        ("{model: a, maxSteps: many}", "spec.maxSteps: a whole number is expected, not text"),
        ("{model: a, maxSteps: 1.5}", "spec.maxSteps: a whole number in plain decimal digits is expected, not 1.5"),
        ("{model: a, maxSteps: 010}", "spec.maxSteps: a whole number in plain decimal digits is expected, not 010"),
        ("{model: a, maxSteps: 1:30}", "spec.maxSteps: a whole number in plain decimal digits is expected, not 1:30"),
        ("{model: a, maxSteps: -1}", "spec.maxSteps: -1 is out of range; at least 0 and at most 4294967295"),
        ("{model: a, maxSteps: 1001}", "spec.maxSteps: must be 1 to 1,000, not 1,001"),
        ("{model: a, temperature: .nan}", "spec.temperature: a plain decimal number is expected, not .nan"),
        ("{model: a, model: b}", "spec.model: is already given in line 4"),
        ("{<<: {model: a}, model: a}", "spec: merge keys (<<) are not taken; write the fields out"),
        ("{[a]: b, model: a}", "spec: a key must be a plain word"),
        ("{tools: []}", "spec.model: required: the name of a Model"),
        ("[]", "spec: a mapping is expected, not a list"),
    ],
)
def test_a_wrong_agent(spec: str, problem: str) -> None:
    assert spec_mistakes("Agent", spec) == [problem]


@pytest.mark.parametrize(
    "duration", ["5", "abc", "-5s", "1:30", "5 m", "1d", "0.1234567891s", "0.0000001ms", "99999999999h", "[1s]"]
)
def test_what_is_no_duration(duration: str) -> None:
    (problem,) = spec_mistakes("Agent", f"{{model: a, turnDeadline: {duration}}}")
    assert "a duration is expected, a number and its unit such as 100ms, 30s, 5m or 1h" in problem


@pytest.mark.parametrize(
    ("written", "read"),
    [("30s", "30s"), ("5m", "300s"), ("1h", "3600s"), ("100ms", "0.100000000s"), ("1.5h", "5400s"), ("0s", "0s")],
)
def test_durations(written: str, read: str) -> None:
    assert canonical(written) == read


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("{apiKey: sk-secret}", "a secret is given by reference, never as its value; write apiKey: {env: NAME}"),
        ("{apiKey: {env: sk-secret}}", "must be the name of an environment variable, never the secret itself"),
        ("{apiKey: {value: sk-secret}}", "unknown field"),
        ("{apiKey: {env: A, file: /sk-secret}}", "excludes env; give one of them"),
        ("{apiKey: {}}", "needs a source: env or file"),
        ('{baseUrl: "http://me:sk-secret@host/v1"}', "holds a user name or password"),
        ('{baseUrl: "http://host/v1?key=sk-secret"}', "must end with its path"),
        ("{apiKey: [sk-secret]}", "a secret is given by reference"),
    ],
)
def test_secrets_are_references_and_no_message_repeats_a_value(spec: str, problem: str) -> None:
    told = " ".join(spec_mistakes("Model", spec))
    assert problem in told
    assert "sk-secret" not in told


def test_an_enum_value_that_is_none_of_those_allowed() -> None:
    (problem,) = spec_mistakes("Tool", "{python: {entryPoint: 'a:b'}, isolation: process}")
    assert problem == (
        "spec.isolation: 'process' is none of ISOLATION_INPROCESS, ISOLATION_PROCESS, ISOLATION_BUBBLEWRAP; "
        'did you mean "ISOLATION_PROCESS"?'
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "f.yaml: the file declares nothing"),
        (b"# only a comment\n", "f.yaml: the file declares nothing"),
        (CLERK.encode() + b"---\n", "f.yaml:18: the document is empty; remove its ---"),
        (b"- a\n", "f.yaml:1: a document must be a mapping"),
        (b"a: 1\nb:\n\t- c\n", "f.yaml:3: not YAML: a tab; indent with spaces"),
        (b"a: [1\n", "f.yaml:2: not YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'"),
        (b"ok: 1\n\nname: \xff\n", "f.yaml:3: not UTF-8; save the file in that encoding"),
        (b"a: 1\nb: \x07\n", "f.yaml:2: the character #x0007 is not allowed in YAML"),
        (b"[" * 500_000, "f.yaml:1: not YAML: nested deeper than 32 levels"),
        (b"a" * 1_048_577, "f.yaml: the file has 1,048,577 bytes, at most 1,048,576 are taken; split it"),
    ],
)
def test_what_is_no_manifest_at_all(content: bytes, problem: str) -> None:
    assert mistakes(content)[-1] == problem


def test_a_wrong_api_version_names_the_right_one() -> None:
    assert mistakes(CLERK.replace("troupe.dev/v1", "v1")) == [
        'f.yaml:1: apiVersion: "v1" is not known; use troupe.dev/v1'
    ]


def test_aliases_that_expand_without_measure_are_given_up() -> None:
    bomb = f"apiVersion: troupe.dev/v1\nkind: Agent\nmetadata: {{name: &a {'x' * 100_000}}}\n"
    bomb += f"spec: {{model: m, tools: [{', '.join(['*a'] * 10_000)}]}}\n"
    assert mistakes(bomb)[-1].endswith("its aliases expand to more than 4 MiB")
    recursive = "apiVersion: troupe.dev/v1\nkind: Agent\nmetadata: {name: a}\nspec: &s {model: m, retry: *s}\n"
    assert mistakes(recursive), "an alias of what surrounds it ends"


def test_a_file_of_mistakes_lists_the_first_hundred() -> None:
    told = mistakes("\n---\n".join(["wrong: 1"] * 1_000))
    assert len(told) == 101
    assert told[-1] == "f.yaml: more than 100 mistakes: what follows is not shown"


def test_one_resource_declared_twice_names_the_first_place() -> None:
    with pytest.raises(InvalidManifest) as raised:
        parse_all([("a.yaml", CLERK), ("b.yaml", f"# again\n{CLERK}")])
    assert [str(error) for error in raised.value.errors] == [
        "b.yaml:5: metadata.name: Agent/default/clerk is declared twice, first in a.yaml:4"
    ]


def test_violations_of_the_whole_set_are_told_at_their_lines() -> None:
    declared = parse(CLERK, "clerk.yaml")
    found = validate([one.resource for one in declared] + [model("defaults"), agent("gone", AgentSpec(model="x"))])
    assert [str(error) for error in located(found, declared)] == [
        'clerk.yaml:7: spec.model: there is no Model "default"; did you mean "defaults"?',
        'clerk.yaml:12: spec.tools[0]: there is no Tool "calculator"',
        'clerk.yaml:13: spec.tools[1]: there is no Tool "search" in namespace shared',
        'Agent/default/gone: spec.model: there is no Model "x"',
    ]
    assert str(located([Violation("resources", "too many")], declared)[0]) == "resources: too many"


def test_fleet_of_the_tests_is_valid() -> None:
    assert validate(fleet()) == []
