"""`python -m fault.chaos --seconds 600 --seed 1`: a storm for people to watch.

Prints each fault as it happens, and at the end kills by target, operations settled, lost, repeated and unknown. The
exit status is 1 where anything was lost or repeated, or another rule was broken.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fault.chaos.breaking import BREAKS, broken
from fault.chaos.killer import Done
from fault.chaos.storm import FLEETS, Plan, Storm, storm
from rich.console import Console
from rich.table import Table

PROGRESS = 5.0
"""Seconds between two lines of how far it is."""


def main(arguments: Sequence[str]) -> int:
    """Run one; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fault.chaos", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="that faults go on (default: 600)")
    parser.add_argument("--seed", type=int, default=1, help="of the schedule of faults (default: 1)")
    parser.add_argument("--fleet", choices=list(FLEETS), default="servers", help="what it befalls (default: servers)")
    parser.add_argument("--sessions", type=int, default=200, help="default: 200")
    parser.add_argument("--rate", type=float, default=60.0, help="operations a second (default: 60)")
    parser.add_argument("--pace", type=float, default=1.0, help="so many times as many faults (default: 1)")
    parser.add_argument("--directory", type=Path, help="where data, logs and a failed history go; kept if named")
    parser.add_argument("--break", dest="broken", choices=list(BREAKS), help="what the product is to do wrong")
    asked = parser.parse_args(arguments)
    plan = Plan(asked.seed, asked.seconds, asked.fleet, sessions=asked.sessions, rate=asked.rate, pace=asked.pace)
    console = Console(highlight=False)
    with _directory(asked.directory) as directory:
        if asked.broken:
            broken(asked.broken, directory)
        return asyncio.run(_watched(plan, directory, console))


async def _watched(plan: Plan, directory: Path, console: Console) -> int:
    console.print(f"seed {plan.seed}, {plan.fleet}: starting …")
    began: list[Storm] = []

    def said(done: Done) -> None:
        console.print(f"{done.at:7.1f} s  {done.victim:14} {done.what}", style="red" if done.killed else "yellow")

    async def progress() -> None:
        while True:
            await asyncio.sleep(PROGRESS)
            if began:
                it = began[0]
                kills = it.killer.kills().total()
                at = time.monotonic() - it.began
                console.print(f"{at:7.1f} s  {kills} kills, {it.settled} operations settled", style="bold")

    watching = asyncio.create_task(progress())
    try:
        it = await storm(plan, directory, said, began.append)
    finally:
        watching.cancel()
    console.print(summary(it))
    assert it.verdict is not None
    for line in it.verdict.broken:
        console.print(line, markup=False, soft_wrap=True)
    if not it.verdict.holds:
        console.print(f"the history is in {directory / 'history'}; seed {plan.seed} has the same schedule of faults")
    return 0 if it.verdict.holds else 1


def summary(it: Storm) -> Table:
    """Kills by target, and what became of the operations."""
    assert it.verdict is not None
    table = Table(title=f"{it.plan.fleet}, seed {it.plan.seed}", title_justify="left", show_header=False)
    kills, others = it.killer.kills(), it.killer.faults()
    for group in sorted(kills | others):
        table.add_row(group, f"{kills[group]} kills" + (f", {others[group]} other faults" if others[group] else ""))
    for name, count in (
        ("all kills", kills.total()),
        ("of them at fault points", f"{it.killer.points().total()}, at {len(it.killer.points())} of them"),
        ("settled", it.verdict.settled),
        ("lost", it.verdict.lost),
        ("repeated", it.verdict.repeated),
        ("unknown", it.verdict.unknown),
        ("given up, as they must", it.verdict.given_up),
        ("cancelled", f"{it.verdict.cancelled}, {it.verdict.taken_back} calls taken back"),
        ("listed, as not taken back", it.verdict.left),
        ("paused and resumed", it.verdict.paused),
        ("rejected, as they asked", it.verdict.rejected),
        ("rules broken", len(it.verdict.broken)),
    ):
        table.add_row(name, str(count))
    return table


@contextmanager
def _directory(named: Path | None) -> Iterator[Path]:
    if named is not None:
        named.mkdir(parents=True, exist_ok=True)
        yield named
    else:
        yield Path(tempfile.mkdtemp(prefix="troupe-chaos-"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
