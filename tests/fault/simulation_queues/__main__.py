"""usage: PYTHONPATH=tests python -m fault.simulation_queues SEED COUNT [--trace]

Runs COUNT seeds from SEED on, and prints what was violated. `--trace` prints the course of the first seed that failed,
or of SEED where none did."""

import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from fault.simulation_queues.run import simulate


def main(arguments: list[str]) -> int:
    numbers = [int(argument) for argument in arguments if argument != "--trace"]
    if len(numbers) != 2:
        _say(str(__doc__))
        return 2
    first, count = numbers
    counts: Counter[str] = Counter()
    failed = []
    with ProcessPoolExecutor(2) as pool:
        for run in pool.map(simulate, range(first, first + count), chunksize=8):
            counts.update({name: number for name, number in run.counts.items() if name != "slowest end"})
            if run.violations:
                failed.append(run.seed)
                _say(f"seed {run.seed}: {run.violations}")
    _say(f"{count} seeds, {len(failed)} failed; {dict(counts)}")
    if "--trace" in arguments:
        _say("\n".join(simulate(failed[0] if failed else first, trace=True).trace))
    return 1 if failed else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
