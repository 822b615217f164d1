"""The runner: which benchmarks it knows, in which order it measures, and what it ends with."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.__main__ import Measure, main
from bench.contender import ContenderFailed
from bench.rounds import in_rounds
from bench.rows import Row, alone


def _benchmark(*rows: Row) -> tuple[str, Measure]:
    def measure(rounds: int, seconds: float) -> Iterator[list[Row]]:
        yield list(rows)

    return "Included: nothing.", measure


GOOD = alone("good", "/s", [2], goal=1)
BAD = alone("bad", "/s", [1], goal=2)


def test_a_run_that_meets_its_goals_writes_them_and_ends_with_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["one"], tmp_path, {"one": _benchmark(GOOD), "other": _benchmark(BAD)}) == 0

    assert [row["metric"] for row in json.loads((tmp_path / "one.json").read_text())] == ["good"]
    assert not (tmp_path / "other.json").exists()
    shown = capsys.readouterr().out
    assert "Included: nothing." in shown
    assert "good" in shown


def test_a_goal_that_is_not_met_is_named_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], tmp_path, {"first": _benchmark(BAD), "second": _benchmark(GOOD)}) == 1

    assert "not met: bad" in capsys.readouterr().out
    assert (tmp_path / "second.json").exists()


def test_a_contender_that_cannot_be_run_ends_it_with_1_and_without_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(rounds: int, seconds: float) -> Iterator[list[Row]]:
        yield [GOOD]
        raise ContenderFailed("celery could not be run")

    assert main(["one"], tmp_path, {"one": ("", measure)}) == 1

    assert "celery could not be run" in capsys.readouterr().out
    assert not (tmp_path / "one.json").exists()


def test_an_unknown_name_is_an_error_that_lists_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["brokr"], tmp_path, {"broker": _benchmark(GOOD), "turns": _benchmark(GOOD)})

    assert ended.value.code == 2
    assert "no benchmark brokr: there is broker, turns" in capsys.readouterr().err


def test_rounds_are_interleaved() -> None:
    order: list[str] = []

    def measured(name: str) -> float:
        order.append(name)
        return len(order)

    figures = in_rounds(2, {name: lambda name=name: measured(name) for name in ("a", "b")})  # type: ignore[misc]

    assert order == ["a", "b", "a", "b"]
    assert figures == {"a": [1, 3], "b": [2, 4]}
