"""Which Sync becomes a revision."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fleets import agent, fleet, model

from troupe.chassis.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument
from troupe.chassis.ids import uuid7
from troupe.controlplane.policy import NO_CANARY, resolved
from troupe.controlplane.revisions import (
    MAX_CONFIG_BYTES,
    Accept,
    Head,
    Repeat,
    Summary,
    decide,
    roll_back,
    summary,
    way_back,
)
from troupe.controlplane.stages import COMPLETE, HALTED, PENDING, ROLLING, ROLLING_BACK, SUPERSEDED, Stage
from troupe.resources.content import content_hash
from troupe.v1.control_plane_pb2 import RollbackRequest, SyncRequest
from troupe.v1.resource_pb2 import AgentSpec, ConfigSpec, Resource
from troupe.v1.rollout_pb2 import FailurePolicy, Rollout, RolloutPolicy, WorkerShare

EMPTY = Head(0, 1)
UUID4, UUID7 = "2f1c8a52-6d0e-4b57-9c3e-5a90d1f0b7c4", "01a21844-e709-727f-8e30-2f6ecc3c6d24"
NOW = 1_700_000_000.0
NEWEST = Rollout(stage=COMPLETE)


def asked(resources: list[Resource], parent: str = "", revision_id: str | None = None) -> SyncRequest:
    return SyncRequest(revision_id=revision_id or uuid7(), parent_revision_id=parent, resources=resources)


def accepted(request: SyncRequest, head: Head = EMPTY) -> ConfigSpec:
    decision = decide(request, head, None, NEWEST, NOW)
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
    assert decide(request, Head(9, 1, "other"), stored, NEWEST, NOW) == Repeat(stored)
    shuffled = asked(fleet()[::-1], revision_id=request.revision_id)
    assert decide(shuffled, Head(9, 1, "other"), stored, NEWEST, NOW) == Repeat(stored)


def test_the_same_id_with_other_content_is_taken() -> None:
    request = asked(fleet())
    stored = accepted(request)
    labelled = fleet()
    labelled[0].metadata.labels["tier"] = "front"
    for other in (fleet(prompt="Another."), labelled, fleet()[:2], [*fleet(), fleet()[0]]):
        with pytest.raises(AlreadyExists):
            decide(asked(other, revision_id=request.revision_id), EMPTY, stored, NEWEST, NOW)


def test_another_parent_is_refused_and_told_the_current_one() -> None:
    for parent, head in (("", Head(3, 1, "now")), ("old", Head(3, 1, "now")), ("old", EMPTY)):
        with pytest.raises(Aborted) as raised:
            decide(asked(fleet(), parent), head, None, NEWEST, NOW)
        assert raised.value.metadata == {"current_revision_id": head.revision_id}


def test_an_invalid_set_is_refused_with_a_violation_for_each_resource_and_field() -> None:
    wrong = [agent("a", AgentSpec(model="gone", max_steps=0)), agent("B")]
    with pytest.raises(InvalidArgument) as raised:
        decide(asked(wrong), EMPTY, None, NEWEST, NOW)
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
        decide(request, EMPTY, None, NEWEST, NOW)
    assert [violation.field for violation in raised.value.violations] == ["revision_id"]


def test_a_set_too_large_for_one_message_is_refused() -> None:
    large = [model(), *(agent(f"a{n}", AgentSpec(model="default", system_prompt="x" * 1_100_000)) for n in range(16))]
    with pytest.raises(InvalidArgument) as raised:
        decide(asked(large), EMPTY, None, NEWEST, NOW)
    assert f"at most {MAX_CONFIG_BYTES:,} are taken" in str(raised.value)


def outcome(request: SyncRequest, head: Head, stored: ConfigSpec | None) -> Accept | Repeat | AlreadyExists | Aborted:
    try:
        return decide(request, head, stored, NEWEST, NOW)
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
            case Accept(config, _):
                assert request.revision_id not in known
                line.append(config)
            case Repeat(config):
                assert config == known[request.revision_id]
    assert [config.generation for config in line] == list(range(1, len(line) + 1))
    assert [config.parent_revision_id for config in line] == ["", *(config.revision_id for config in line)][: len(line)]


def test_a_revision_begins_pending_under_its_policy() -> None:
    request = asked(fleet())
    request.rollout.max_failures = 3
    decision = decide(request, EMPTY, None, Rollout(), NOW)
    assert isinstance(decision, Accept)
    (own,) = decision.rollouts
    assert (own.stage, own.policy) == (PENDING, resolved(RolloutPolicy(max_failures=3)))
    assert own.stage_began.ToSeconds() == NOW


@pytest.mark.parametrize(("before", "after"), [(ROLLING, SUPERSEDED), (COMPLETE, COMPLETE), (HALTED, HALTED)])
def test_the_one_before_is_superseded_unless_it_is_at_its_end(before: Stage, after: Stage) -> None:
    decision = decide(asked(fleet(), "p"), Head(4, 2, "p"), None, Rollout(stage=before), NOW)
    assert isinstance(decision, Accept)
    assert decision.rollouts[1].stage == after
    assert bool(decision.rollouts[1].reason) == (after == SUPERSEDED)


def test_another_policy_is_the_same_revision_all_the_same() -> None:
    request = asked(fleet())
    stored = accepted(request)
    request.rollout.canary.workers = 9
    assert decide(request, Head(1, 1, stored.revision_id), stored, NEWEST, NOW) == Repeat(stored)


def test_a_policy_out_of_range_is_refused_with_a_violation_for_each_field() -> None:
    request = asked([agent("B", AgentSpec(model="gone"))])
    request.rollout.CopyFrom(RolloutPolicy(canary=WorkerShare(), max_unavailable=WorkerShare(workers=0)))
    with pytest.raises(InvalidArgument) as raised:
        decide(request, EMPTY, None, Rollout(), NOW)
    assert [violation.field for violation in raised.value.violations] == [
        "rollout.canary",
        "rollout.max_unavailable",
        "Agent/default/B metadata.name",
        "Agent/default/B spec.model",
    ]


OLD = ConfigSpec(revision_id="old", generation=3, term=1, content_hash=content_hash(fleet()), resources=fleet())
HEAD = Head(4, 2, "bad")


def back(revision_id: str | None = None, leaving: str = "bad", to: str = "", **more: RolloutPolicy) -> RollbackRequest:
    return RollbackRequest(
        revision_id=revision_id or uuid7(),
        from_revision_id=leaving,
        to_revision_id=to,
        rollout=more.get("rollout"),
    )


def gone_back(request: RollbackRequest, newest: Rollout = NEWEST) -> Accept:
    decision = roll_back(request, HEAD, None, newest, OLD, NOW)
    assert isinstance(decision, Accept)
    return decision


def test_a_rollback_is_a_new_revision_with_the_older_content() -> None:
    request = back()
    accepted = gone_back(request)
    config, (own, left) = accepted.config, accepted.rollouts
    assert (config.revision_id, config.generation, config.term) == (request.revision_id, 5, 2)
    assert (config.parent_revision_id, config.content_hash) == ("bad", OLD.content_hash)
    assert list(config.resources) == list(OLD.resources)
    assert (own.stage, own.rollback_of_revision_id) == (PENDING, "bad")
    assert own.policy == resolved(RolloutPolicy(), canary=NO_CANARY)
    assert (left.stage, left.rolled_back_by_revision_id) == (ROLLING_BACK, request.revision_id)
    assert left.reason == f"a user left it; revision {request.revision_id} brings back what old was"


def test_a_rollback_has_a_canary_only_where_one_is_asked_for() -> None:
    assert gone_back(back(rollout=RolloutPolicy(max_failures=2))).rollouts[0].policy.canary == NO_CANARY
    asked_for = RolloutPolicy(canary=WorkerShare(workers=2))
    assert gone_back(back(rollout=asked_for)).rollouts[0].policy.canary.workers == 2


@pytest.mark.parametrize("stage", [PENDING, ROLLING, COMPLETE, HALTED])
def test_what_a_user_leaves_is_rolling_back_wherever_it_was(stage: Stage) -> None:
    assert gone_back(back(), Rollout(stage=stage)).rollouts[1].stage == ROLLING_BACK


def test_who_leaves_another_than_the_newest_is_told_which_that_is() -> None:
    with pytest.raises(Aborted) as raised:
        roll_back(back(leaving="older"), HEAD, None, NEWEST, OLD, NOW)
    assert raised.value.metadata == {"current_revision_id": "bad"}
    with pytest.raises(Aborted):
        roll_back(back(), EMPTY, None, Rollout(), None, NOW)


@pytest.mark.parametrize(("to", "message"), [("", "was ever COMPLETE"), ("gone", "revision gone is not kept")])
def test_there_must_be_something_to_go_back_to(to: str, message: str) -> None:
    with pytest.raises(FailedPrecondition, match=message):
        roll_back(back(to=to), HEAD, None, NEWEST, None, NOW)


def test_a_rollback_that_is_wrong_is_told_all_of_it() -> None:
    request = RollbackRequest(rollout=RolloutPolicy(canary=WorkerShare(percent=101)))
    with pytest.raises(InvalidArgument) as raised:
        roll_back(request, HEAD, None, NEWEST, OLD, NOW)
    fields = [violation.field for violation in raised.value.violations]
    assert fields == ["revision_id", "from_revision_id", "rollout.canary"]


def kept(accepted: Accept) -> tuple[ConfigSpec, Summary]:
    return accepted.config, summary(accepted.config, NOW, accepted.rollouts[0])


def test_a_rollback_sent_again_finds_its_revision_whatever_came_since() -> None:
    request = back()
    stored = kept(gone_back(request))
    for target in (OLD, None, ConfigSpec(revision_id="later", resources=fleet(prompt="Other."))):
        assert roll_back(request, Head(9, 3, "other"), stored, NEWEST, target, NOW) == Repeat(stored[0])


def test_an_id_that_became_something_else_is_taken() -> None:
    request = back(to="old")
    stored = kept(gone_back(request))
    other = ConfigSpec(revision_id="other", resources=fleet(prompt="Other."))
    with pytest.raises(AlreadyExists):
        roll_back(back(request.revision_id, to="other"), HEAD, stored, NEWEST, other, NOW)
    with pytest.raises(AlreadyExists):
        roll_back(back(request.revision_id, leaving="another"), HEAD, stored, NEWEST, OLD, NOW)
    synced = accepted(asked(fleet(), revision_id=request.revision_id))
    with pytest.raises(AlreadyExists):
        roll_back(request, HEAD, (synced, summary(synced, NOW)), NEWEST, OLD, NOW)


def test_the_way_back_goes_out_as_carefully_as_what_failed_and_is_never_gone_back_from() -> None:
    policy = resolved(RolloutPolicy(max_unavailable=WorkerShare(workers=7), max_failures=3))
    failed = Rollout(stage=HALTED, policy=policy, reason="a canary failed: a (no module)")
    accepted = way_back("new", HEAD, failed, OLD, NOW)
    own, left = accepted.rollouts
    assert (accepted.config.generation, accepted.config.parent_revision_id) == (5, "bad")
    assert (own.policy.canary, own.policy.max_unavailable, own.policy.max_failures) == (
        NO_CANARY,
        policy.max_unavailable,
        3,
    )
    assert own.policy.on_failure == FailurePolicy.FAILURE_POLICY_HALT
    assert own.rollback_of_revision_id == "bad"
    assert (left.stage, left.rolled_back_by_revision_id) == (ROLLING_BACK, "new")
    assert left.reason.startswith("a canary failed: a (no module); revision new brings back")
    assert failed.policy.on_failure == FailurePolicy.FAILURE_POLICY_ROLL_BACK, "what was given stays as it was"
