"""When failed messages of a task queue come again: at each step of the policy, some that fail one after another, whose
delays are timed; at two of them, FAILURES that fail at the same moment, which must not come back together."""

import asyncio
import itertools
import operator
import random
import statistics
import time
from collections.abc import Sequence

from bench.broker.messages import Sender
from bench.rows import Row, alone
from troupe.broker.addressing import task_queue
from troupe.broker.connect import connected
from troupe.broker.port import Broker, Delivery
from troupe.broker.retry import RetryPolicy
from troupe.v1.envelope_pb2 import Envelope

POOL = "bench"
TIMED = 50
APART = 0.01
"""Seconds between the failures whose delays are timed."""
FAILURES = 200
STEPS = {1: 100, 2: 200, 3: 400, 4: 800, 5: 1600}
"""Milliseconds before jitter, by how often a message has failed."""
SPREAD = (800, 1600)
"""Steps for which the spread has a goal."""
WINDOW = 0.05


async def measure(url: str, rounds: int) -> list[Row]:
    """Dice of each round are seeded, so that every run asks for the same delays."""
    off: dict[int, list[float]] = {step: [] for step in STEPS.values()}
    together: dict[int, list[float]] = {step: [] for step in SPREAD}
    async with connected(url) as broker:
        await broker.declare(1, [POOL])
        await failed(broker, [0.1] * TIMED, APART)  # warms up
        for number, (failures, step) in itertools.product(range(rounds), STEPS.items()):
            dice = random.Random(number)
            asked = [RetryPolicy().delay(failures, dice.random()) for _ in range(TIMED)]
            waited, _ = await failed(broker, asked, APART)
            off[step].append(100 * abs(statistics.median(map(operator.truediv, waited, asked)) - 1))
            if step in SPREAD:
                asked = [RetryPolicy().delay(failures, dice.random()) for _ in range(FAILURES)]
                _, back = await failed(broker, asked, 0)
                together[step].append(100 * densest(back, WINDOW) / FAILURES)
    return [
        *(
            alone(f"retry after {step} ms ± 20 %: median off its schedule", "%", off[step], goal=10, better="lower")
            for step in off
        ),
        *(
            alone(
                f"of {FAILURES} failures at once at {step} ms, most back within 50 ms",
                "%",
                together[step],
                goal=30,
                better="lower",
            )
            for step in SPREAD
        ),
    ]


async def failed(broker: Broker, asked: Sequence[float], apart: float) -> tuple[list[float], list[float]]:
    """Defer as many messages, so many seconds apart, each by what is asked for it: how long each was away, and when
    each came back."""
    failing: list[Delivery] = []
    left: dict[int, float] = {}
    waited: dict[int, float] = {}
    back: list[float] = []
    step = asyncio.Event()

    def handle(delivery: Delivery) -> None:
        now = time.perf_counter()
        if (sequence := sequence_of(delivery)) in left:
            waited[sequence] = now - left[sequence]
            back.append(now)
            delivery.ack()
        else:
            failing.append(delivery)
        if len(asked) == len(back or failing):
            step.set()

    async def fail(delivery: Delivery, delay: float, after: float) -> None:
        await asyncio.sleep(after)
        left[sequence_of(delivery)] = time.perf_counter()
        await broker.defer(delivery, delay)

    subscription = await broker.consume(task_queue(POOL), handle, len(asked))
    await Sender().send(broker, len(asked), POOL)
    await step.wait()
    step.clear()
    failing.sort(key=sequence_of)
    async with asyncio.TaskGroup() as failures:
        for index, (delivery, delay) in enumerate(zip(failing, asked, strict=True)):
            failures.create_task(fail(delivery, delay, index * apart))
    await step.wait()
    await subscription.close()
    return [waited[sequence] for sequence in sorted(waited)], back


def sequence_of(delivery: Delivery) -> int:
    return Envelope.FromString(delivery.body).number.sequence


def densest(times: Sequence[float], window: float) -> int:
    """The most of `times` that lie within one window of so many seconds."""
    ordered = sorted(times)
    most = first = 0
    for last, now in enumerate(ordered):
        while now - ordered[first] >= window:
            first += 1
        most = max(most, last - first + 1)
    return most
