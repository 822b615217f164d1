"""`python -m bench [NAME …]`: run benchmarks, write `bench/results/NAME.json`, print the tables.

The exit status is 1 when a goal is not met, or when a contender could not be run or did not do what it should.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from bench.actors import benchmark as actors
from bench.broker import benchmark as broker
from bench.contender import ContenderFailed
from bench.controlplane import benchmark as controlplane
from bench.faults import rebalance, recovery
from bench.placement import benchmark as placement
from bench.rows import Row, failed, table, write
from bench.sessions import benchmark as sessions
from bench.turns import benchmark as turns

RESULTS = Path(__file__).parent / "results"

Measure = Callable[[int, float], Iterator[list[Row]]]

Benchmarks = Mapping[str, tuple[str, Measure]]
"""By name: what it includes and does not, and how it is measured, in so many rounds of so many seconds."""

BENCHMARKS: Benchmarks = {
    "actors": (actors.INCLUDES, actors.measure),
    "broker": (broker.INCLUDES, broker.measure),
    "controlplane": (controlplane.INCLUDES, controlplane.measure),
    "recovery": (recovery.INCLUDES, recovery.measure),
    "rebalance": (rebalance.INCLUDES, rebalance.measure),
    "placement": (placement.INCLUDES, placement.measure),
    "sessions": (sessions.INCLUDES, sessions.measure),
    "turns": (turns.INCLUDES, turns.measure),
}


def main(arguments: Sequence[str], results: Path = RESULTS, benchmarks: Benchmarks = BENCHMARKS) -> int:
    """Run them; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(benchmarks)}; all by default")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender is measured (default: 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of publishing in each round (default: 3)")
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.names if name not in benchmarks]:
        parser.error(f"no benchmark {', '.join(unknown)}: there is {', '.join(benchmarks)}")
    if asked.rounds < 1:
        parser.error("--rounds: at least 1")
    console = Console(width=None if sys.stdout.isatty() else 160)
    passed = [
        run(name, *benchmarks[name], asked.rounds, asked.seconds, results, console)
        for name in asked.names or benchmarks
    ]
    return 0 if all(passed) else 1


def run(
    name: str, includes: str, measure: Measure, rounds: int, seconds: float, results: Path, console: Console
) -> bool:
    """Run one, write and print it; whether all its goals are met. A benchmark whose contenders do not all run writes
    nothing."""
    console.print(f"[bold]{name}[/], {rounds} rounds: medians, lowest and highest round. {includes}\n", soft_wrap=True)
    rows: list[Row] = []
    try:
        for part in measure(rounds, seconds):
            rows += part
    except ContenderFailed as error:
        console.print(f"[bold red]{name} was not measured:[/] ", end="")
        console.print(str(error), markup=False, soft_wrap=True)
        return False
    write(results / f"{name}.json", rows)
    console.print(table(name, rows))
    missed = failed(rows)
    for row in missed:
        console.print(f"[bold red]not met:[/] {row.metric} {row.reference_name}")
    return not missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
