"""Which Sync becomes a revision."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fleets import agent, fleet, model

from troupe.chassis.errors import Aborted, AlreadyExists, InvalidArgument
from troupe.chassis.ids import uuid7
from troupe.controlplane.revisions import MAX_CONFIG_BYTES, Accept, Head, Repeat, decide
from troupe.resources.content import content_hash
from troupe.v1.control_plane_pb2 import SyncRequest
from troupe.v1.resource_pb2 import AgentSpec, ConfigSpec, Resource

EMPTY = Head(0, 1)
UUID4, UUID7 = "2f1c8a52-6d0e-4b57-9c3e-5a90d1f0b7c4", "01a21844-e709-727f-8e30-2f6ecc3c6d24"


def asked(resources: list[Resource], parent: str = "", revision_id: str | None = None) -> SyncRequest:
    return SyncRequest(revision_id=revision_id or uuid7(), parent_revision_id=parent, resources=resources)


def accepted(request: SyncRequest, head: Head = EMPTY) -> ConfigSpec:
    decision = decide(request, head, None)
    assert isinstance(decision, Accept)
    return decision.config


def test_the_first_revision() -> None:
    request = asked(fleet())
    config = accepted(request, Head(0, 7))
    assert (config.generation, config.term, config.parent_revision_id) == (1, 7, "")
    assert config.revision_id == request.revision_id
    assert config.content_hash == content_hash(fleet())
    assert list(config.resources) == fleet(), "the bytes of a spec are kept as they came, and so is the order"


def test_the_next_revision_follows_its_parent() -> None:
    config = accepted(asked(fleet(), parent="p"), Head(4, 2, "p"))
    assert (config.generation, config.term, config.parent_revision_id) == (5, 2, "p")


def test_an_empty_set_is_a_revision() -> None:
    assert accepted(asked([], parent="p"), Head(4, 2, "p")).generation == 5


def test_the_same_again_finds_its_revision_whatever_came_since() -> None:
    request = asked(fleet())
    stored = accepted(request)
    assert decide(request, Head(9, 1, "other"), stored) == Repeat(stored)
    shuffled = asked(fleet()[::-1], revision_id=request.revision_id)
    assert decide(shuffled, Head(9, 1, "other"), stored) == Repeat(stored)


def test_the_same_id_with_other_content_is_taken() -> None:
    request = asked(fleet())
    stored = accepted(request)
    labelled = fleet()
    labelled[0].metadata.labels["tier"] = "front"
    for other in (fleet(prompt="Another."), labelled, fleet()[:2], [*fleet(), fleet()[0]]):
        with pytest.raises(AlreadyExists):
            decide(asked(other, revision_id=request.revision_id), EMPTY, stored)


def test_another_parent_is_refused_and_told_the_current_one() -> None:
    for parent, head in (("", Head(3, 1, "now")), ("old", Head(3, 1, "now")), ("old", EMPTY)):
        with pytest.raises(Aborted) as raised:
            decide(asked(fleet(), parent), head, None)
        assert raised.value.metadata == {"current_revision_id": head.revision_id}


def test_an_invalid_set_is_refused_with_a_violation_for_each_resource_and_field() -> None:
    wrong = [agent("a", AgentSpec(model="gone", max_steps=0)), agent("B")]
    with pytest.raises(InvalidArgument) as raised:
        decide(asked(wrong), EMPTY, None)
    assert [violation.field for violation in raised.value.violations] == [
        "Agent/default/a spec.maxSteps",
        "Agent/default/a spec.model",
        "Agent/default/B metadata.name",
        "Agent/default/B spec.model",
    ]
    assert "(and 3 more); nothing was stored" in str(raised.value)


@pytest.mark.parametrize("revision_id", ["", "r", UUID4, UUID7.upper(), UUID7.replace("-", ""), "{}"])
def test_an_id_must_be_a_uuid7(revision_id: str) -> None:
    request = SyncRequest(revision_id=revision_id, resources=fleet())
    with pytest.raises(InvalidArgument) as raised:
        decide(request, EMPTY, None)
    assert [violation.field for violation in raised.value.violations] == ["revision_id"]


def test_a_set_too_large_for_one_message_is_refused() -> None:
    large = [model(), *(agent(f"a{n}", AgentSpec(model="default", system_prompt="x" * 1_100_000)) for n in range(16))]
    with pytest.raises(InvalidArgument) as raised:
        decide(asked(large), EMPTY, None)
    assert f"at most {MAX_CONFIG_BYTES:,} are taken" in str(raised.value)


def outcome(request: SyncRequest, head: Head, stored: ConfigSpec | None) -> Accept | Repeat | AlreadyExists | Aborted:
    try:
        return decide(request, head, stored)
    except (AlreadyExists, Aborted) as error:
        return error


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 2)), max_size=25))
def test_whatever_is_sent_and_repeated_the_line_has_no_branch(calls: list[tuple[int, int, int]]) -> None:
    """Ids, parents and contents from small pools, so that they collide: repeats, reuses and stale parents occur."""
    ids = [uuid7() for _ in range(4)]
    contents = [fleet(prompt=f"Prompt {number}.") for number in range(3)]
    line: list[ConfigSpec] = []
    for id_number, parent_number, content_number in calls:
        head = Head(line[-1].generation, 1, line[-1].revision_id) if line else EMPTY
        known = {config.revision_id: config for config in line}
        parent = ids[parent_number] if parent_number < 4 else ""
        request = asked(contents[content_number], parent, ids[id_number])
        match outcome(request, head, known.get(request.revision_id)):
            case AlreadyExists():
                assert content_hash(known[request.revision_id].resources) != content_hash(request.resources)
            case Aborted() as error:
                assert request.parent_revision_id != head.revision_id == error.metadata["current_revision_id"]
            case Accept(config):
                assert request.revision_id not in known
                line.append(config)
            case Repeat(config):
                assert config == known[request.revision_id]
    assert [config.generation for config in line] == list(range(1, len(line) + 1))
    assert [config.parent_revision_id for config in line] == ["", *(config.revision_id for config in line)][: len(line)]
