"""What befalls each victim, one thing after another: endless, and all of it from the seed. Pure."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from troupe.chassis import fault_points


class What(StrEnum):
    """What can happen to a victim."""

    KILL = "kill"
    """SIGKILL, and a new start."""
    FREEZE = "freeze"
    """SIGSTOP, and SIGCONT."""
    CUT = "cut"
    """Its connections are reset; new ones are taken."""
    SILENT = "silent"
    """Nothing passes."""
    DEAF = "deaf"
    """Nothing comes to the one who dials."""
    MUTE = "mute"
    """Nothing comes from the one who dials."""
    REFUSED = "refused"
    """Its connections are reset, and new ones too."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One of them."""

    after: float
    """Seconds from when the one before was over."""
    what: What
    lasts: float
    """Seconds until a killed process starts again, a frozen one goes on, a line heals."""
    line: str = ""
    """Which line, of a victim that has several."""

    def __str__(self) -> str:
        where = f" of {self.line}" if self.line else ""
        return f"{self.what}{where} for {self.lasts:.2f} s"


LEASE: Final = 4.0
"""Seconds after which control planes count a worker as lost, in these fleets."""
LINES: Final = ("to the control plane", "from the control plane", "to the broker", "to the store")
RARE: Final = ("handover", "take-over", "gap", "retry", "dead letter", "claim", "start")
"""Points that a worker comes by now and then; the others many times a second."""


def worker(seed: int, name: str) -> Iterator[Fault]:
    """A worker: killed, stopped for a while, and past its lease."""
    dice = _dice(seed, name)
    while True:
        after = dice.uniform(3.0, 12.0)
        match dice.choices(("kill", "short", "long"), (6, 3, 1))[0]:
            case "kill":
                yield Fault(after, What.KILL, dice.choice((0.0, 0.0, 0.5, LEASE + 1)))
            case "short":
                yield Fault(after, What.FREEZE, dice.uniform(0.2, 2.0))
            case _:
                yield Fault(after, What.FREEZE, LEASE + dice.uniform(0.5, 2.0))


def control_plane(seed: int, name: str) -> Iterator[Fault]:
    dice = _dice(seed, name)
    while True:
        after = dice.uniform(6.0, 20.0)
        if dice.random() < 0.7:
            yield Fault(after, What.KILL, dice.choice((0.0, 1.0, 4.0)))
        else:
            yield Fault(after, What.FREEZE, dice.choice((1.0, 5.0)))


def servers(seed: int) -> Iterator[tuple[str, Fault]]:
    """RabbitMQ and Redis, one at a time."""
    dice = _dice(seed, "servers")
    while True:
        after = dice.uniform(0.2, 3.0)
        name = dice.choices(("RabbitMQ", "Redis"), (2, 3))[0]
        if dice.random() < 0.85:
            yield name, Fault(after, What.KILL, dice.choice((0.0, 0.0, 1.0)))
        else:
            yield name, Fault(after, What.FREEZE, dice.uniform(0.5, 3.0))


def lines(seed: int, name: str) -> Iterator[Fault]:
    """The lines of one worker: cut, or stalled in one direction or both."""
    dice = _dice(seed, f"lines of {name}")
    ways = (What.CUT, What.SILENT, What.DEAF, What.MUTE, What.REFUSED)
    while True:
        yield Fault(dice.uniform(3.0, 12.0), dice.choice(ways), dice.choice((0.5, 1.5, 3.0)), dice.choice(LINES))


def one_process(seed: int) -> Iterator[Fault]:
    """`troupe up`: killed, and sometimes stopped."""
    dice = _dice(seed, "up")
    while True:
        after = dice.uniform(0.2, 4.0)
        if dice.random() < 0.85:
            yield Fault(after, What.KILL, 0.0)
        else:
            yield Fault(after, What.FREEZE, dice.uniform(0.2, 6.0))


def points(seed: int, name: str, often: int = 300) -> Iterator[str]:
    """For each new process of this name the fault points at which it kills itself: `NAME:NTH,…`, or none: were each
    process to die so, all of them would do so again and again over what the ones before left. `often` is the most times
    that it comes by one that it comes by often."""
    dice = _dice(seed, f"points of {name}")
    names = sorted(fault_points.POINTS)
    while True:
        dice.shuffle(names)
        for first in range(0, len(names), 2):
            yield ",".join(_armed(dice, point, often) for point in names[first : first + 2])
            yield ""


def _armed(dice: random.Random, point: str, often: int) -> str:
    most = 3 if point.partition(".")[0] in RARE else often
    return f"{point}:{dice.randint(1, most)}"


def _dice(seed: int, name: str) -> random.Random:
    return random.Random(f"{seed} {name}")
