"""A row says what was measured and whether it is enough; the file and the table say the same."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from bench.rows import Better, Row, alone, compared, failed, table, write


class TestCompared:
    def test_the_ratio_is_the_median_of_the_rounds_own(self) -> None:
        # The machine was twice as fast in the second round, for both.
        row = compared("publish", "/s", [100, 220, 90], [50, 110, 60], "peer")

        assert row.ratio == 2.0
        assert (row.ours, row.reference) == (100, 60)
        assert row.samples == {"ours": [100, 220, 90], "reference": [50, 110, 60]}

    @pytest.mark.parametrize(
        ("better", "goal", "met"),
        [("higher", 2.0, True), ("higher", 2.1, False), ("lower", 2.0, True), ("lower", 1.9, False)],
    )
    def test_the_goal_is_for_the_ratio(self, better: Better, goal: float, met: bool) -> None:
        assert compared("m", "/s", [200], [100], "peer", goal=goal, better=better).met is met

    def test_each_of_ours_stands_beside_one_of_theirs(self) -> None:
        with pytest.raises(ValueError, match="zip"):
            compared("m", "/s", [1, 2], [1], "peer")


class TestAlone:
    @pytest.mark.parametrize(("better", "met"), [("higher", False), ("lower", True)])
    def test_the_goal_is_for_the_figure(self, better: Better, met: bool) -> None:
        row = alone("delay", "%", [3, 9, 4], goal=10, better=better)

        assert (row.ours, row.reference, row.ratio, row.met) == (4, None, None, met)

    def test_a_row_without_a_goal_is_neither_met_nor_missed(self) -> None:
        row = alone("delay", "%", [3])

        assert row.met is None
        assert failed([row]) == []


def _rows() -> list[Row]:
    return [compared("publish", "/s", [1000.4], [100.0], "peer", goal=11), alone("delay", "%", [1, 2, 3])]


def test_the_file_holds_the_rows_with_the_fields_that_readers_know(tmp_path: Path) -> None:
    write(tmp_path / "results" / "broker.json", _rows())

    first, second = json.loads((tmp_path / "results" / "broker.json").read_text())
    assert first == {
        "metric": "publish",
        "unit": "/s",
        "ours": 1000.4,
        "reference": 100.0,
        "reference_name": "peer",
        "ratio": 10.004,
        "better": "higher",
        "goal": 11,
        "met": False,
        "samples": {"ours": [1000.4], "reference": [100.0]},
    }
    assert second["met"] is None


def test_the_table_shows_medians_spread_and_what_is_not_met() -> None:
    console = Console(width=160, file=io.StringIO())

    console.print(table("broker", _rows()))

    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()

    assert "1,000 /s" in shown
    assert "2 (1 to 3) %" in shown
    assert "NO" in shown
