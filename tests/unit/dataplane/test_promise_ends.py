"""How a promise comes to its end."""

import pytest
from support.state_stores import NOW, promise

from troupe.dataplane.state.promises import expired, is_due


@pytest.mark.parametrize(("expires", "due"), [(0.0, False), (NOW - 1, True), (NOW, True), (NOW + 1, False)])
def test_its_time_is_over_from_then_on(expires: float, due: bool) -> None:
    assert is_due(promise(expires=expires), NOW) is due


def test_what_ended_is_not_due() -> None:
    assert not is_due(expired(promise(expires=NOW)), NOW)
