"""uhashring: a consistent-hash ring with 160 virtual nodes for each worker, its defaults.

`peer.py moves ROUND WORKERS …` says what moves and how it is spread in fleets of these sizes, `peer.py lookup WORKERS`
how much CPU time finding an actor's worker takes.
"""

import json
import sys
import time

import fleets
from uhashring import HashRing


def moves(number: int, count: int) -> dict[str, float]:
    actors = fleets.actors(fleets.actors_of(count))
    *workers, newcomer = fleets.workers(count + 1, number)
    ring = HashRing(nodes=workers)
    before = [ring.get_node(actor) for actor in actors]
    ring.add_node(newcomer)
    joined = [ring.get_node(actor) for actor in actors]
    ring.remove_node(newcomer)
    ring.remove_node(workers[0])
    left = [ring.get_node(actor) for actor in actors]
    return {
        "joins": fleets.moved(before, joined),
        "leaves": fleets.moved(before, left),
        "spread": fleets.spread(before, count),
    }


def lookup(count: int) -> dict[str, float]:
    ring = HashRing(nodes=fleets.workers(count, 0))
    actors = fleets.actors(fleets.LOOKED_UP)
    found = [ring.get_node(actor) for actor in actors]
    begun = time.process_time()
    for _ in range(fleets.PASSES):
        for actor in actors:
            ring.get_node(actor)
    seconds = time.process_time() - begun
    return {"messages": len(found), "counted": fleets.PASSES * len(actors), "seconds": seconds}


match sys.argv[1:]:
    case ["moves", number, *counts]:
        said = {count: moves(int(number), int(count)) for count in counts}
    case ["lookup", count]:
        said = lookup(int(count))
    case _:
        raise SystemExit("peer.py moves ROUND WORKERS … or peer.py lookup WORKERS")
print(json.dumps(said))
