"""What kind of trouble one seed is about. Rare schedules come sooner when a seed insists on one kind."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from fault.simulation.network import Weather

from troupe.broker.port import PREFETCH

KINDS = (
    "kill",
    "storm",
    "restart",
    "move",
    "move silently",
    "cut store",
    "cut broker",
    "reconnect",
    "hand over",
    "redrive",
    "broker restart",
    "two leaders",
    "clock jumps",
)


@dataclass(frozen=True, slots=True)
class Climate:
    """Drawn once for a seed."""

    weather: Weather
    kinds: Sequence[str]
    """Of faults that may befall the workers."""
    faults: int
    """How many do."""
    prefetch: int
    long: float
    """Share of messages that take about a minute."""
    waits: float = 0.1
    """Share of messages that wait for promises."""
    verbs: float = 0.15
    """Share of messages that somebody cancels, and of those that somebody pauses."""
    restarts: float = 0.0
    """Share of messages that somebody restarts."""
    later: float = 0.1
    """Share of messages that are scheduled."""
    day: float = 24 * 3600.0
    """Seconds for which records, verbs and silent streams are kept."""


def anything(dice: random.Random) -> Climate:
    """A few kinds of faults, in any mixture."""
    refused, reply_lost, late = (dice.choice((0.0, 0.0, 0.01, 0.05)) for _ in range(3))
    return Climate(
        Weather(refused, reply_lost, late, dice.choice((0.0, 0.05, 0.3)), dice.choice((0.05, 0.5))),
        kinds := dice.sample(KINDS, dice.randint(0, 3)),
        faults=dice.choice((1, 3, 8)) if kinds else 0,
        prefetch=dice.choice((1, 3, PREFETCH)),
        long=0.06,
    )


def gaps(dice: random.Random) -> Climate:
    """Numbers that never come, or come late and out of order, while long turns hold up the mailbox, and connections
    break again and again."""
    return Climate(
        Weather(slow=dice.choice((0.0, 0.5)), slowest=3.0),
        kinds=("storm", "reconnect", dice.choice(("cut broker", "reconnect"))),
        faults=dice.choice((4, 8, 20)),
        prefetch=dice.choice((2, 3)),
        long=dice.choice((0.1, 0.4)),
    )


def zombies(dice: random.Random) -> Climate:
    """Owners that do not know that they are none any more, and whose writes take long."""
    return Climate(
        Weather(late=dice.choice((0.0, 0.05)), slow=0.3, slowest=dice.choice((0.5, 3.0))),
        kinds=("move silently", "move", "cut store"),
        faults=dice.choice((4, 8)),
        prefetch=PREFETCH,
        long=0.0,
    )


def handovers(dice: random.Random) -> Climate:
    """Shards that are handed over again and again, in the middle of turns that take long, with little else wrong."""
    return Climate(
        Weather(late=dice.choice((0.0, 0.02)), slow=dice.choice((0.0, 0.1)), slowest=0.5),
        kinds=(
            "hand over",
            "hand over",
            "hand over",
            dice.choice(("kill", "restart", "reconnect", "redrive", "cut store")),
        ),
        faults=dice.choice((8, 20)),
        prefetch=dice.choice((3, PREFETCH)),
        long=dice.choice((0.05, 0.3)),
    )


def control(dice: random.Random) -> Climate:
    """Verbs, promises and schedules beside each other, with a few faults."""
    return Climate(
        Weather(late=dice.choice((0.0, 0.05)), reply_lost=dice.choice((0.0, 0.05)), slow=0.1, slowest=0.5),
        kinds := dice.sample(KINDS, dice.randint(0, 2)),
        faults=dice.choice((2, 6)) if kinds else 0,
        prefetch=dice.choice((2, PREFETCH)),
        long=0.0,
        waits=0.5,
        verbs=0.5,
        later=0.3,
    )


def short_days(dice: random.Random) -> Climate:
    """What is kept for a day is soon forgotten, while messages wait and are scheduled for longer."""
    return Climate(
        Weather(),
        kinds=dice.sample(("kill", "restart", "hand over", "clock jumps"), 2),
        faults=dice.choice((1, 4)),
        prefetch=PREFETCH,
        long=0.0,
        waits=0.3,
        verbs=0.2,
        later=0.4,
        day=200.0,
    )


def letters(dice: random.Random) -> Climate:
    """Dead letters that are redriven again and again, while answers come late."""
    return Climate(
        Weather(
            late=dice.choice((0.0, 0.05)),
            reply_lost=dice.choice((0.0, 0.1)),
            slow=0.4,
            slowest=dice.choice((0.5, 3.0)),
        ),
        kinds=(*["redrive"] * 5, dice.choice(KINDS)),
        faults=40,
        prefetch=dice.choice((2, PREFETCH)),
        long=0.0,
    )


CLIMATES = (anything, anything, anything, gaps, zombies, handovers, control, control, short_days)


def restores(dice: random.Random) -> Climate:
    """The store is restored from a backup: what it promised since is lost, but everything goes on."""
    return Climate(
        Weather(late=dice.choice((0.0, 0.02))),
        kinds=("restore", "restore", dice.choice(("kill", "move silently", "hand over", "broker restart"))),
        faults=dice.choice((2, 5)),
        prefetch=PREFETCH,
        long=0.0,
        waits=0.2,
        later=0.2,
    )


def restarts(dice: random.Random) -> Climate:
    """Messages that others go on for, as they wait, are paused, or are dead letters, with a few faults."""
    return Climate(
        Weather(late=dice.choice((0.0, 0.05)), reply_lost=dice.choice((0.0, 0.05)), slow=0.2, slowest=0.5),
        kinds := dice.sample(KINDS, dice.randint(0, 2)),
        faults=dice.choice((2, 6)) if kinds else 0,
        prefetch=dice.choice((2, PREFETCH)),
        long=0.0,
        waits=0.5,
        verbs=0.2,
        restarts=0.7,
    )
