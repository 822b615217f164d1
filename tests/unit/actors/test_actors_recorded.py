"""Which messages have a record: no one that has is ever said to have none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.dataplane.actors import recorded
from troupe.dataplane.actors.recorded import FADED, FILTERS, PLAIN, Recorded

IDS = st.lists(st.text(max_size=20), max_size=100, unique=True)


@given(st.lists(st.text(max_size=20), max_size=20, unique=True), IDS)
def test_what_was_there_or_was_added_is_never_denied(known: list[str], added: list[str]) -> None:
    """Given ids from the store; when others are added, more than are kept as they are; then each may be there."""
    with pytest.MonkeyPatch.context() as few:
        few.setattr(recorded, "PLAIN", 4)
        ids = Recorded(known)
        for message_id in added:
            ids.add(message_id)
    assert all(ids.may_hold(message_id) for message_id in (*known, *added))


def test_old_ones_are_told_from_new_ones_nearly_always() -> None:
    """Given a session with so many messages that most have faded; when new ones come; then hardly any is looked up."""
    ids = Recorded()
    for number in range(PLAIN + FADED):
        ids.add(f"old-{number}")
    assert all(ids.may_hold(f"old-{number}") for number in range(PLAIN + FADED))
    assert sum(ids.may_hold(f"new-{number}") for number in range(10_000)) < 100


def test_what_is_not_known_from_the_beginning_may_be_there() -> None:
    """Given a store that told of some ids only; then every other one may have a record, and adding changes nothing."""
    ids = Recorded(["m"], complete=False)
    for number in range(2 * PLAIN):
        ids.add(f"m-{number}")
    assert ids.may_hold("another")


def test_too_many_take_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a session with more messages than filters take; then anything may be there, and the filters are gone."""
    monkeypatch.setattr(recorded, "FADED", 8)
    ids = Recorded()
    for number in range(PLAIN + 8 * FILTERS + 1):
        ids.add(f"m-{number}")
    assert ids.may_hold("another")
    assert not ids._filters
