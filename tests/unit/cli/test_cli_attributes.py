"""Attributes as people write them."""

import pytest

from troupe.chassis.errors import InvalidArgument
from troupe.cli import attributes


def test_pairs() -> None:
    assert attributes.parse(None) == {}
    assert attributes.parse(["team=shop", "note=a=b", "empty="]) == {"team": "shop", "note": "a=b", "empty": ""}


@pytest.mark.parametrize("given", [["team"], ["=shop"], [""], ["team=a", "team=b"], ["team=a", "team=a"]])
def test_what_is_no_pair_or_comes_twice_is_refused(given: list[str]) -> None:
    with pytest.raises(InvalidArgument):
        attributes.parse(given)
