"""`B=turns`: effectively-once turns, in one process beside a bare loop, and end to end beside Restate."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from support.rabbitmq import Node

from bench.rounds import in_rounds
from bench.rows import Row, alone, compared
from bench.turns import fleet, load, one_process, restate
from bench.turns.load import Load

INCLUDES = f"""\
Included: in one process, {one_process.MESSAGES:,} waiting messages, of which each is consumed, changes a state in
Redis (every write on disk before its answer), sends one message to another quorum queue, confirmed, and is acked; the
bare loop gives the same with two scripts and a callback for each step, and has no inbox, verbs, promises or retries.
End to end, a native client asks counters and waits: the message is accepted durably, the count read, raised and
committed, the caller has the answer. Client, servers and workers share this machine. Ours by gRPC from ghz, over
{load.CONNECTIONS} connections to each worker; Restate's virtual objects by HTTP from wrk; as many requests under way
as there are counters. Restate: its server as it comes, which writes to disk before it answers, its SDK served by
hypercorn with uvloop, with as many processes as we have workers.
Not included: a network, TLS, credentials, replicas."""


@dataclass(frozen=True, slots=True)
class Case:
    """So many counters, and so many workers or processes of the SDK; embedded there is one of either."""

    actors: int
    workers: int
    calls: bool = False
    """Each turn has a recorded tool call."""

    def __str__(self) -> str:
        many = "1 counter" if self.actors == 1 else f"{self.actors} counters"
        return f"{many}{' with a tool call' * self.calls}, {self.workers} worker{'s' * (self.workers > 1)}"


CASES = tuple(Case(*how, calls) for calls in (False, True) for how in ((1, 1), (64, 1), (256, 2)))
OF_RESTATE = 2.5
ALONE_MEDIAN = 2.6
"""Milliseconds."""
WARM_UP = 2.0
"""Seconds of load that are not counted."""


def measure(rounds: int, seconds: float) -> Iterator[list[Row]]:
    """All rows, as each part is done; each load takes `seconds` in each of the rounds."""
    restate.install()
    node = Node()
    try:
        node.start()
        yield one_process.measure(node, rounds)
        for case in CASES:
            yield _end_to_end(node, case, rounds, seconds)
    finally:
        node.close()


Loads = Callable[[float], Awaitable[Load]]
"""Puts what it was made for under load for so many seconds."""
Contender = Callable[[Path], AbstractAsyncContextManager[Loads]]
"""What serves while this is entered, with its data in a directory of its own."""


def _end_to_end(node: Node, case: Case, rounds: int, seconds: float) -> list[Row]:
    servers, embedded, peer = f"{case}, on RabbitMQ and Redis", f"{case}, embedded", f"{case}, Restate"
    contenders: dict[str, Contender] = {
        servers: partial(_ours, case, lambda directory: fleet.on_servers(directory, node, case.workers)),
        embedded: partial(_ours, case, fleet.embedded),
        peer: partial(_restate, case),
    }
    loads: dict[str, list[Load]] = {name: [] for name in contenders}

    def rate(name: str) -> float:
        loads[name].append(asyncio.run(_loaded(contenders[name], seconds)))
        return loads[name][-1].rate

    rates = in_rounds(rounds, {name: partial(rate, name) for name in contenders})
    medians = {name: [load.median for load in found] for name, found in loads.items()}
    several = OF_RESTATE if case.actors > 1 else None
    return [
        row
        for name in (servers, embedded)
        for row in (
            compared(name, "/s", rates[name], rates[peer], "Restate", goal=several),
            compared(f"{name}, median", "ms", medians[name], medians[peer], "Restate", better="lower"),
            alone(
                f"{name}, median",
                "ms",
                medians[name],
                goal=None if several or case.calls else ALONE_MEDIAN,
                better="lower",
            ),
        )
    ]


async def _loaded(contender: Contender, seconds: float) -> Load:
    # Beside the results: a temporary directory may be in memory, where fsync costs nothing.
    with tempfile.TemporaryDirectory(dir=Path(__file__).parents[1]) as directory:
        async with contender(Path(directory)) as loads:
            await loads(WARM_UP)
            return await loads(seconds)


@contextlib.asynccontextmanager
async def _ours(
    case: Case, fleet_in: Callable[[Path], AbstractAsyncContextManager[Sequence[str]]], directory: Path
) -> AsyncIterator[Loads]:
    actor = fleet.WITH_TOOL if case.calls else fleet.COUNTER
    async with fleet_in(directory) as gateways:
        yield lambda seconds: load.calls(gateways, actor, case.actors, seconds)


@contextlib.asynccontextmanager
async def _restate(case: Case, directory: Path) -> AsyncIterator[Loads]:
    handler = "count_with_a_step" if case.calls else "count"
    async with restate.serving(directory, case.workers) as url:
        yield lambda seconds: load.posts(f"{url}/Counter/s%d/{handler}", case.actors, seconds)
