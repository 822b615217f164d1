"""`B=placement`: which worker an actor belongs to, beside a classic consistent-hash ring and naive modulo."""

from collections.abc import Iterator

import fleets

from bench.contender import answer, measurement, peer_command, prepare
from bench.placement import ours
from bench.rounds import in_rounds
from bench.rows import Row, alone, compared

INCLUDES = f"""\
Included: who owns which of 100,000 to 1,000,000 actors (1,000 for each worker) before and after one worker joins, and
before and after one leaves, among workers of equal weight that are others in each round; uhashring with its defaults,
160 virtual nodes for each worker, in an environment of its own; naive modulo over the same hash as ours, which loses
its first worker; ours with ten shards for each worker, 128 at least. A lookup is from an actor's key to its worker, of
100, {fleets.PASSES} times for each of {fleets.LOOKED_UP:,}. Placing is the control plane's whole step. Both are CPU
time.
Not included: storing a placement and telling workers of it; handing shards over (B=rebalance)."""

SIZES = (2, 10, 100, 1_000)
CHANGES = 300
LOOKUP_WORKERS = 100
PLACED_SHARDS, PLACED_WORKERS = 4_096, 1_000
PEER = "uhashring"


def measure(rounds: int, _seconds: float) -> Iterator[list[Row]]:
    """All rows, as each part is done. How much is measured does not depend on the seconds asked for."""
    prepare(PEER)
    yield _moves(rounds)
    yield [_churn(rounds)]
    yield _lookup(rounds)
    yield _placing(rounds)


def _moves(rounds: int) -> list[Row]:
    numbers = ours.hashed(fleets.actors_of(max(SIZES)))
    theirs: list[dict[str, dict[str, float]]] = []
    mine: list[dict[int, ours.Moves]] = []
    for number in range(rounds):
        theirs.append(answer(PEER, [*peer_command(PEER), "moves", str(number), *map(str, SIZES)]))
        mine.append({size: ours.placed(numbers[: fleets.actors_of(size)], size, number) for size in SIZES})
    rows = []
    for size in SIZES:
        naive = ours.modulo(numbers[: fleets.actors_of(size)], size)
        for name, unit in (("joins", "% moved"), ("leaves", "% moved"), ("spread", "max/mean")):
            metric = f"{size:,} workers, {name if name == 'spread' else f'one {name}'}"
            figures = [getattr(moves[size], name) for moves in mine]
            peer = [said[str(size)][name] for said in theirs]
            rows += [
                compared(metric, unit, figures, peer, PEER, better="lower"),
                compared(metric, unit, figures, [getattr(naive, name)] * rounds, "modulo", better="lower"),
            ]
        for name in ("joins", "leaves"):
            pairs = [getattr(moves[size], f"shards_{name}") for moves in mine]
            rows.append(_forced(f"{size:,} workers, one {name}", pairs))
    return rows


def _churn(rounds: int) -> Row:
    pairs = [ours.churn(number, CHANGES, PLACED_SHARDS) for number in range(rounds)]
    return _forced(f"{CHANGES} joins and leaves of weighted workers", pairs)


def _forced(metric: str, pairs: list[tuple[int, int]]) -> Row:
    moved, least = zip(*pairs, strict=True)
    return compared(metric, "shards moved", moved, least, "what the quotas force", goal=1.0, better="lower")


def _lookup(rounds: int) -> list[Row]:
    command = [*peer_command(PEER), "lookup", str(LOOKUP_WORKERS)]
    rates = in_rounds(
        rounds,
        {
            "lookups": lambda: ours.lookups_per_second(LOOKUP_WORKERS),
            "lookups uhashring": lambda: measurement(PEER, command).rate,
        },
    )
    mine, peer = ([1e6 / rate for rate in rates[name]] for name in ("lookups", "lookups uhashring"))
    return [
        compared("actor to worker", "µs", mine, peer, PEER, better="lower"),
        alone("actor to worker", "µs", mine, goal=1.0, better="lower"),
    ]


def _placing(rounds: int) -> list[Row]:
    timed = [ours.placing(PLACED_SHARDS, PLACED_WORKERS, number) for number in range(rounds)]
    title = f"{PLACED_SHARDS:,} shards on {PLACED_WORKERS:,} workers"
    return [
        alone(f"{title}, ring known", "ms", [each.known for each in timed], goal=300, better="lower"),
        alone(f"{title}, ring unknown", "ms", [each.unknown for each in timed], better="lower"),
        alone(f"{title}, one more joins", "ms", [each.joins for each in timed], better="lower"),
        alone(f"{title}, nothing changed", "ms", [each.same for each in timed], better="lower"),
    ]
