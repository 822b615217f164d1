"""One measured claim, and the table of them. Pure, but for writing the file."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table

Better = Literal["higher", "lower"]
Samples = Sequence[float]


@dataclass(frozen=True, slots=True)
class Row:
    """One metric: ours, what it is compared with, and the goal. Build it with `compared` or `alone`."""

    metric: str
    unit: str
    ours: float
    """Median of the rounds."""
    reference: float | None
    """Median of the rounds; None where the goal is one for `ours` itself."""
    reference_name: str
    ratio: float | None
    """Ours to the reference: the median of the rounds' own ratios, since machines drift between rounds."""
    better: Better
    goal: float | None
    """What `ratio` must reach, or `ours` where there is no reference; None for a row that is only shown."""
    met: bool | None
    """None where there is no goal."""
    samples: Mapping[str, Samples]
    """Every round of `ours`, and of `reference` where there is one."""


def compared(
    metric: str,
    unit: str,
    ours: Samples,
    reference: Samples,
    reference_name: str,
    *,
    goal: float | None = None,
    better: Better = "higher",
) -> Row:
    """Ours beside a reference, round by round; both have one sample for each round."""
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, reference, strict=True))
    return Row(
        metric,
        unit,
        statistics.median(ours),
        statistics.median(reference),
        reference_name,
        ratio,
        better,
        goal,
        _met(ratio, goal, better),
        {"ours": list(ours), "reference": list(reference)},
    )


def alone(metric: str, unit: str, ours: Samples, *, goal: float | None = None, better: Better = "higher") -> Row:
    """Ours against a goal in its own unit."""
    value = statistics.median(ours)
    return Row(metric, unit, value, None, "", None, better, goal, _met(value, goal, better), {"ours": list(ours)})


def failed(rows: Sequence[Row]) -> list[Row]:
    """Those whose goal is not met."""
    return [row for row in rows if row.met is False]


def write(path: Path, rows: Sequence[Row]) -> None:
    """Put the rows into a JSON file, as a list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = Row.__slots__
    path.write_text(json.dumps([{name: getattr(row, name) for name in fields} for row in rows], indent=2) + "\n")


def table(title: str, rows: Sequence[Row]) -> Table:
    """The rows for people: medians, with the lowest and the highest round."""
    shown = Table(title=title, title_justify="left")
    for name in ("metric", "ours", "reference", "", "ratio", "goal", "met"):
        shown.add_column(name, justify="right" if name in ("ours", "reference", "ratio", "goal") else "left")
    for row in rows:
        shown.add_row(
            row.metric,
            f"{_spread(row.ours, row.samples['ours'])} {row.unit}",
            "" if row.reference is None else f"{_spread(row.reference, row.samples['reference'])} {row.unit}",
            row.reference_name,
            "" if row.ratio is None else f"{row.ratio:.2f}",
            "" if row.goal is None else f"{'≥' if row.better == 'higher' else '≤'} {row.goal:,g}",
            {True: "[green]yes", False: "[bold red]NO", None: ""}[row.met],
        )
    return shown


def _met(value: float, goal: float | None, better: Better) -> bool | None:
    if goal is None:
        return None
    return value >= goal if better == "higher" else value <= goal


def _spread(median: float, samples: Samples) -> str:
    if len(samples) == 1:
        return _figure(median)
    return f"{_figure(median)} ({_figure(min(samples))} to {_figure(max(samples))})"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
