"""Content hash, differences, merging, and manifests there and back."""

import hashlib
import json
import random

import hypothesis
import pytest
import yaml
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st
from support.fleets import agent, fleet, model, resource, tool

from troupe.resources.content import Diff, changes, content_hash, diff, key, merge
from troupe.resources.manifest import parse
from troupe.resources.render import manifest, to_json, to_yaml
from troupe.resources.validation import validate
from troupe.v1.resource_pb2 import (
    AgentSpec,
    ModelSpec,
    ModelTimeouts,
    PythonTool,
    Resource,
    RetryPolicy,
    SecretRef,
    ToolSpec,
)

NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True).filter(lambda name: name != "graph")
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
SPECS = {
    "Agent": st.builds(
        lambda **fields: AgentSpec(**{name: value for name, value in fields.items() if value is not None}),
        description=TEXTS,
        model=NAMES,
        system_prompt=TEXTS,
        tools=st.lists(NAMES, max_size=3, unique=True),
        max_steps=st.none() | st.integers(1, 1000),
        temperature=st.none() | st.floats(0, 2),
        retry=st.none() | st.builds(RetryPolicy, max_retries=st.integers(0, 20)),
    ),
    "Model": st.builds(
        ModelSpec,
        description=TEXTS,
        model=TEXTS,
        api_key=st.none() | st.just(SecretRef(env="KEY")),
        max_concurrency=st.none() | st.integers(1, 100_000),
        timeouts=st.none()
        | st.integers(1, 86_400_000).map(
            lambda millis: ModelTimeouts(total=Duration(seconds=millis // 1000, nanos=millis % 1000 * 10**6))
        ),
    ),
}
RESOURCES = st.sampled_from(sorted(SPECS)).flatmap(
    lambda kind: st.builds(
        lambda name, namespace, spec, labels: resource(kind, name, spec, namespace, labels),
        NAMES,
        NAMES,
        SPECS[kind],
        st.dictionaries(
            TEXTS.filter(lambda text: 0 < len(text.encode()) < 64), st.text("abc ", max_size=9), max_size=2
        ),
    )
)
FEWER = hypothesis.settings(max_examples=40)
"""Sets of resources are slow to make."""

SETS = st.lists(RESOURCES, max_size=6, unique_by=lambda one: str(key(one)))


def test_the_hash_is_the_one_that_its_docstring_describes() -> None:
    resources = [tool("b"), agent("a")]
    expected = hashlib.sha256()
    for kind, name, one in (("Agent", "a", resources[1]), ("Tool", "b", resources[0])):
        for part in (kind, "default", name, hashlib.sha256(one.spec.value).hexdigest()):
            expected.update(len(part).to_bytes(4, "big") + part.encode())
    assert content_hash(resources) == expected.hexdigest()


@FEWER
@given(SETS, st.randoms(use_true_random=False))
def test_the_hash_knows_no_order(resources: list[Resource], rng: random.Random) -> None:
    shuffled = resources.copy()
    rng.shuffle(shuffled)
    assert content_hash(shuffled) == content_hash(resources)


def test_the_hash_covers_key_and_spec_and_nothing_else() -> None:
    base = content_hash(fleet())
    assert content_hash(fleet(prompt="Another.")) != base
    assert content_hash(fleet()[1:]) != base
    assert content_hash([model("a"), model("b")]) != content_hash([model("ab"), model("b")])
    labelled = fleet()
    labelled[0].metadata.labels["tier"] = "front"
    labelled[0].metadata.namespace = ""
    assert content_hash(labelled) == base, "labels do not count, and an absent namespace is the default one"


@FEWER
@given(SETS, SETS)
def test_a_diff_leads_from_one_set_to_the_other(old: list[Resource], new: list[Resource]) -> None:
    found = diff(old, new)
    gone = {str(key(one)) for one in found.removed} | {str(key(before)) for before, _ in found.changed}
    kept = [one for one in old if str(key(one)) not in gone]
    result = merge(kept, [*found.added, *(after for _, after in found.changed)])
    assert result == merge(new, [])
    assert not diff(new, result)


def test_a_change_of_labels_alone_is_a_change() -> None:
    old, new = model(), model()
    new.metadata.labels["tier"] = "front"
    assert diff([old], [new]) == Diff(added=(), changed=((old, new),), removed=())
    assert [str(change) for change in changes(old, new)] == ['metadata.labels.tier: (absent) -> "front"']


def test_merge_overlays_and_prune_replaces() -> None:
    changed = agent("clerk", AgentSpec(model="default"))
    assert merge(fleet(), [changed, model("new")]) == [changed, model(), model("new"), tool()]
    assert merge(fleet(), [changed], prune=True) == [changed]


def test_the_fields_that_differ_are_named_with_both_values() -> None:
    old = agent("a", AgentSpec(model="a", tools=["x"], max_steps=3))
    new = agent("a", AgentSpec(model="b", tools=["x", "y"]))
    assert [str(change) for change in changes(old, new)] == [
        "spec.maxSteps: 3 -> (absent)",
        'spec.model: "a" -> "b"',
        'spec.tools[1]: (absent) -> "y"',
    ]


def test_long_texts_are_shown_where_they_differ() -> None:
    before, after = ("Be kind. " * 100 + end for end in ("Be brief.", "Be thorough."))
    (change,) = changes(agent("a", AgentSpec(system_prompt=before)), agent("a", AgentSpec(system_prompt=after)))
    assert str(change) == 'spec.systemPrompt: "… kind. Be brief." -> "… kind. Be thorough."'


def test_a_spec_that_cannot_be_read_differs_as_a_whole() -> None:
    broken = model()
    broken.spec.value = b"\xff"
    assert [str(change) for change in changes(broken, model())] == ['spec: "ff" -> (absent)']
    assert manifest(broken)["spec"] == {"@type": "type.googleapis.com/troupe.v1.ModelSpec", "value": "/w=="}


@FEWER
@given(SETS)
def test_a_manifest_comes_back_as_it_was(resources: list[Resource]) -> None:
    if not resources:
        return
    assert [one.resource for one in parse(to_yaml(resources), "f.yaml")] == resources
    assert json.loads(to_json(resources)) == [manifest(one) for one in resources]


def test_a_prompt_of_several_lines_is_a_block() -> None:
    text = to_yaml([agent("a", AgentSpec(model="m", system_prompt="One.\nTwo.\n"))])
    assert "  systemPrompt: |\n    One.\n    Two.\n" in text
    assert text.startswith("---\napiVersion: troupe.dev/v1\nkind: Agent\nmetadata:\n  name: a\n")
    assert len(list(yaml.safe_load_all(text))) == 1


@pytest.mark.parametrize(
    "spec", [ToolSpec(python=PythonTool(entry_point="a:b"), idempotent=True), ModelSpec(base_url="http://h/v1")]
)
def test_the_other_specs_come_back_too(spec: ToolSpec | ModelSpec) -> None:
    one = resource("Tool" if isinstance(spec, ToolSpec) else "Model", "x", spec)
    assert validate([one]) == []
    assert parse(to_yaml([one]), "f.yaml")[0].resource == one
