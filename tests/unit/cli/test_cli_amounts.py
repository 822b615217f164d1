"""Amounts of workers as people write them."""

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from troupe.cli import amounts
from troupe.v1.rollout_pb2 import WorkerShare


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("0", WorkerShare(workers=0)),
        ("3", WorkerShare(workers=3)),
        (" 3 ", WorkerShare(workers=3)),
        ("65536", WorkerShare(workers=65_536)),
        ("25%", WorkerShare(percent=25)),
        ("12.5 %", WorkerShare(percent=12.5)),
        ("0%", WorkerShare(percent=0)),
        ("100%", WorkerShare(percent=100)),
    ],
)
def test_a_number_or_a_percentage(text: str, share: WorkerShare) -> None:
    assert amounts.parse(text) == share


@pytest.mark.parametrize(
    "text", ["", "%", "-1", "three", "1e3", "65537", "9999999999", "100.1%", "1.5", "٣", "3%%", "nan%"]
)
def test_anything_else_is_misuse(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        amounts.parse(text)


@pytest.mark.parametrize("text", ["0", "0%", "0.0%"])
def test_where_some_are_needed_none_is_misuse(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="at least 1"):
        amounts.parse_some(text)


@given(st.text(max_size=12))
def test_no_text_is_anything_but_an_amount_in_range_or_misuse(text: str) -> None:
    try:
        share = amounts.parse(text)
    except typer.BadParameter:
        return
    assert 0 <= share.workers <= amounts.MOST
    assert 0 <= share.percent <= 100
    assert amounts.parse(amounts.shown(share)).WhichOneof("kind") == share.WhichOneof("kind")
