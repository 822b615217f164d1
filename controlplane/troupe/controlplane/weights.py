"""How large a share of the shards a worker gets."""

import math
from collections.abc import Mapping
from typing import Final

from troupe.chassis.errors import InvalidArgument, Violation
from troupe.v1.status_pb2 import Capacity

WEIGHT_LABEL: Final = "troupe.dev/weight"
"""The label of a worker that asks for a weight of its own."""

LIGHTEST: Final = 0.01
HEAVIEST: Final = 1_000.0

MEMORY_OF_A_UNIT: Final = 2 * 2**30
"""Bytes. The least that goes with a processor on the common kinds of machines: on those processors decide, and memory
where it is the scarcer of the two."""


def weight_of(capacity: Capacity, asked: float | None = None) -> float:
    """The weight of a worker, LIGHTEST to HEAVIEST: what it asked for, or else the smaller of its processors and of its
    memory in units of MEMORY_OF_A_UNIT. What is not above 0 is as good as not said; where nothing is said, 1."""
    if asked is not None and asked > 0:
        return _bounded(asked)
    said = [each for each in (capacity.cpus, capacity.memory_bytes / MEMORY_OF_A_UNIT) if each > 0]
    return _bounded(min(said, default=1.0))


def asked_weight(labels: Mapping[str, str]) -> float | None:
    """What the label asks for; None without it. Raises InvalidArgument where it is no number in the range."""
    text = labels.get(WEIGHT_LABEL)
    if text is None:
        return None
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not LIGHTEST <= weight <= HEAVIEST:
        raise InvalidArgument(
            "BAD_WEIGHT",
            f"label {WEIGHT_LABEL} is {text!r}; it must be a number from {LIGHTEST:g} to {HEAVIEST:g}",
            violations=[Violation(f"labels[{WEIGHT_LABEL}]", f"{text!r} is no number in the range")],
        )
    return weight


def _bounded(weight: float) -> float:
    return min(max(weight, LIGHTEST), HEAVIEST)
