"""Confirmed publishes and acked deliveries per second: ours, four frameworks, aio-pika and a bare pika loop."""

import statistics
from collections.abc import Mapping, Sequence
from functools import partial

from support.rabbitmq import Node

from bench.contender import Contender, ours, peer, prepare
from bench.rounds import in_rounds
from bench.rows import Row, compared
from troupe.broker.addressing import mailbox

BARE = peer("pika-bare", consumed=80_000)
CLIENT = peer("aio-pika", consumed=25_600)
FRAMEWORKS = [peer(name, consumed=12_800) for name in ("dramatiq", "celery", "taskiq", "faststream")]
PEERS = [*FRAMEWORKS, CLIENT, BARE]
TROUPE = Contender("troupe", ours("bench.broker.ours"), consumed=80_000, queue=mailbox(0))

OF_BEST_FRAMEWORK = 5.0

PUBLISH = "publish, confirmed"
PUBLISH_MANY = "publish_many, confirmed"
CONSUME = "consume and ack"


def measure(node: Node, rounds: int, seconds: float) -> list[Row]:
    """Raises ContenderFailed."""
    for each in PEERS:
        prepare(each.name)
    many = {"publish_many": partial(TROUPE.publish, node, seconds, mode="publish_many")}
    published = {each.name: partial(each.publish, node, seconds) for each in (TROUPE, *PEERS)}
    publishing = in_rounds(rounds, many | published)
    consuming = in_rounds(rounds, {each.name: partial(each.consume, node) for each in (TROUPE, *PEERS)})
    return [
        *_rows(PUBLISH, publishing, of_bare=0.75),
        compared(PUBLISH_MANY, "/s", publishing["publish_many"], publishing[BARE.name], BARE.name),
        *_rows(CONSUME, consuming, of_bare=0.7),
    ]


def _rows(metric: str, rates: Mapping[str, Sequence[float]], of_bare: float) -> list[Row]:
    """The goals are for the best framework and the bare loop; the others are shown."""
    best = max((each.name for each in FRAMEWORKS), key=lambda name: statistics.median(rates[name]))
    goals = {best: OF_BEST_FRAMEWORK, BARE.name: of_bare}
    ours = rates[TROUPE.name]
    return [compared(metric, "/s", ours, rates[each.name], each.name, goal=goals.get(each.name)) for each in PEERS]
