"""When a process leads, renews, waits and stops."""

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from troupe.controlplane.candidacy import Candidacy, LeaderTimes, Renew, StepDown, Take, Wait
from troupe.controlplane.stores.port import Leadership

TIMES = LeaderTimes(lease=15.0, renew_deadline=10.0, retry=2.0)
NOBODY = Leadership(4)
OTHER = Leadership(4, "other", "other:1", renewals=7)
MINE = Leadership(5, "me", "me:1")


@pytest.fixture
def candidacy() -> Candidacy:
    return Candidacy("me", TIMES)


@pytest.fixture
def leading(candidacy: Candidacy) -> Candidacy:
    """Since 100.0."""
    assert candidacy.saw(NOBODY, 100.0) == Take(NOBODY)
    assert candidacy.wrote(MINE, begun=100.0, now=100.1) == Wait(102.0)
    return candidacy


# --- who does not lead


def test_where_nobody_leads_it_takes_over_at_once(candidacy: Candidacy) -> None:
    assert candidacy.saw(NOBODY, 100.0) == Take(NOBODY)
    assert candidacy.saw(Leadership(0), 100.0) == Take(Leadership(0))


def test_a_leader_whose_record_stands_still_is_waited_for_until_its_lease_is_over(candidacy: Candidacy) -> None:
    assert candidacy.saw(OTHER, 100.0) == Wait(102.0)
    assert candidacy.saw(OTHER, 114.0) == Wait(115.0), "no later than the lease ends"
    assert candidacy.saw(OTHER, 114.9) == Wait(115.0)
    assert candidacy.saw(OTHER, 115.0) == Take(OTHER)


@pytest.mark.parametrize(
    "sign", [replace(OTHER, renewals=8), Leadership(5, "third", "third:1"), replace(OTHER, term=9)]
)
def test_the_lease_begins_anew_with_each_change_of_the_record(candidacy: Candidacy, sign: Leadership) -> None:
    candidacy.saw(OTHER, 100.0)
    assert candidacy.saw(sign, 114.0) == Wait(116.0)
    assert candidacy.saw(sign, 115.5) == Wait(117.5)
    assert candidacy.saw(sign, 129.0) == Take(sign)


def test_time_in_which_nobody_looked_counts_where_the_record_is_the_same_after_it(candidacy: Candidacy) -> None:
    candidacy.saw(OTHER, 100.0)
    assert candidacy.failed(begun=102.0, now=107.0) == Wait(107.0)
    assert candidacy.failed(begun=107.0, now=107.0) == Wait(109.0)
    assert candidacy.saw(OTHER, 200.0) == Take(OTHER)


def test_who_was_too_late_looks_again_after_a_while(candidacy: Candidacy) -> None:
    candidacy.saw(NOBODY, 100.0)
    assert candidacy.refused(100.2) == Wait(102.2)
    assert candidacy.held is None


def test_its_own_name_in_the_record_is_no_reason_to_lead_but_one_to_take_over_at_once(candidacy: Candidacy) -> None:
    assert candidacy.saw(MINE, 100.0) == Take(MINE)
    assert candidacy.held is None


def test_an_answer_that_came_after_the_deadline_makes_no_leader(candidacy: Candidacy) -> None:
    candidacy.saw(NOBODY, 100.0)
    assert isinstance(candidacy.wrote(MINE, begun=100.0, now=110.0), StepDown)


# --- who leads


def test_a_leader_renews_what_it_sees(leading: Candidacy) -> None:
    assert leading.held == MINE
    assert leading.saw(MINE, 102.0) == Renew(MINE)
    renewed = replace(MINE, renewals=1)
    assert leading.wrote(renewed, begun=102.0, now=102.3) == Wait(104.0)
    assert (leading.held, leading.deadline) == (renewed, 112.0)


def test_a_renewal_whose_answer_was_lost_is_gone_on_from(leading: Candidacy) -> None:
    assert leading.failed(begun=102.0, now=103.0) == Wait(104.0)
    landed = replace(MINE, renewals=1)
    assert leading.saw(landed, 104.0) == Renew(landed)
    assert leading.deadline == 110.0, "it counts when it is answered"
    # One that lands between the look and the next renewal is looked for at once
    assert leading.refused(104.1) == Wait(104.1)
    assert leading.saw(replace(MINE, renewals=2), 104.2) == Renew(replace(MINE, renewals=2))


@pytest.mark.parametrize(
    "record", [OTHER, Leadership(6, "other", "other:1"), Leadership(6, "me", "me:1"), Leadership(5)]
)
def test_a_leader_that_is_not_in_the_record_stops(leading: Candidacy, record: Leadership) -> None:
    assert isinstance(leading.saw(record, 102.0), StepDown)


def test_a_leader_stops_at_the_deadline_which_is_counted_from_the_call_before_it_was_answered(
    leading: Candidacy,
) -> None:
    assert leading.failed(begun=102.0, now=109.9) == Wait(109.9)
    assert isinstance(leading.failed(begun=109.9, now=110.0), StepDown)
    assert isinstance(leading.saw(MINE, 110.0), StepDown)
    assert isinstance(leading.refused(110.0), StepDown)
    leading.stopped()
    assert leading.deadline is None
    assert leading.saw(MINE, 111.0) == Take(MINE)


@given(
    lease=st.floats(3.0, 60.0),
    calls=st.lists(
        st.tuples(st.floats(0.0, 5.0), st.sampled_from(("renewed", "lost", "failed", "refused"))), max_size=50
    ),
)
@example(lease=4.0, calls=[(0.0, "renewed"), (0.0, "lost"), (0.0, "failed"), (0.0, "failed"), (2.0, "renewed")])
def test_a_leader_has_stopped_before_anyone_takes_over(lease: float, calls: list[tuple[float, str]]) -> None:
    """However its renewals fare, and whenever another looks."""
    times = LeaderTimes(lease, lease * 2 / 3, lease / 6)
    leader, other = Candidacy("me", times), Candidacy("other", times)
    now, stored, leads = 100.0, MINE, True
    leader.wrote(stored, begun=now, now=now)
    other.saw(stored, now)
    for took, fate in calls:
        begun, now = now, now + took
        decision = leader.saw(stored, begun)
        if isinstance(decision, StepDown):
            return  # it writes nothing any more
        if isinstance(decision, Renew) and fate in ("renewed", "lost"):
            stored = replace(stored, renewals=stored.renewals + 1)
        if fate == "renewed":
            decision = leader.wrote(stored, begun, now)
        else:
            decision = leader.refused(now) if fate == "refused" else leader.failed(begun, now)
        leads = leads and not isinstance(decision, StepDown)
        if isinstance(other.saw(stored, now), Take):
            assert not leads
            return
        if not leads:
            return
        if isinstance(decision, Wait):
            now = max(now, decision.until)


@pytest.mark.parametrize(
    ("lease", "deadline", "retry"), [(10.0, 10.0, 2.0), (15.0, 2.0, 2.0), (15.0, 10.0, 0.0), (5.0, 10.0, 2.0)]
)
def test_times_that_would_not_keep_leaders_apart_are_refused(lease: float, deadline: float, retry: float) -> None:
    with pytest.raises(ValueError, match="retry must be shorter than renew_deadline, and that shorter than lease"):
        LeaderTimes(lease, deadline, retry)
