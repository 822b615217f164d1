"""usage: PYTHONPATH=tests python -m fault.simulation SEED COUNT [--trace]

Runs COUNT seeds from SEED on, and prints what was violated, by kind, with the seeds. `--trace` prints the course of
the first seed that failed, or of SEED where none did."""

import sys
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor

from fault.simulation.run import Run, simulate


def main(arguments: list[str]) -> int:
    numbers = [int(argument) for argument in arguments if argument != "--trace"]
    if len(numbers) != 2:
        print(__doc__)
        return 2
    first, count = numbers
    with ProcessPoolExecutor(2) as pool:
        runs = list(pool.map(simulate, range(first, first + count), chunksize=8))
    failed = [run for run in runs if run.violations]
    _report(runs, failed)
    if "--trace" in arguments:
        print("\n".join(simulate(failed[0].seed if failed else first, trace=True).trace))
    return 1 if failed else 0


def _report(runs: list[Run], failed: list[Run]) -> None:
    counts: Counter[str] = Counter()
    kinds: defaultdict[str, list[int]] = defaultdict(list)
    for run in runs:
        counts.update({name: number for name, number in run.counts.items() if name != "slowest drain"})
        for kind in sorted({violation.kind for violation in run.violations}):
            kinds[kind].append(run.seed)
    slowest = max(runs, key=lambda run: run.counts.get("slowest drain", 0))
    print(f"{len(runs)} seeds, {len(failed)} failed; {dict(counts)}")
    print(f"slowest drain: {slowest.counts.get('slowest drain', 0)} s in seed {slowest.seed}")
    for kind, seeds in sorted(kinds.items(), key=lambda row: -len(row[1])):
        example = next(v for run in failed if run.seed == seeds[0] for v in run.violations if v.kind == kind)
        print(f"  {kind}: {len(seeds)} seeds, {seeds[:12]}\n    {example}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
