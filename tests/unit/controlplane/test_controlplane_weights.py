"""How large a share of the shards a worker gets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.chassis.errors import InvalidArgument
from troupe.controlplane.weights import HEAVIEST, LIGHTEST, WEIGHT_LABEL, asked_weight, weight_of
from troupe.v1.status_pb2 import Capacity

GIB = 2**30


@pytest.mark.parametrize(
    ("cpus", "gib", "asked", "weight"),
    [
        (4, 16, None, 4),
        (4, 2, None, 1),
        (0.5, 8, None, 0.5),
        (4, 0, None, 4),
        (0, 6, None, 3),
        (0, 0, None, 1),
        (4, 16, 2.5, 2.5),
        (0.001, 1, None, LIGHTEST),
        (1e9, 2**33, None, HEAVIEST),
    ],
    ids=[
        "processors are scarcer",
        "memory is scarcer",
        "half a processor",
        "memory not said",
        "processors not said",
        "nothing said",
        "a label goes before",
        "never nothing",
        "never everything",
    ],
)
def test_the_scarcer_of_processors_and_memory_decides(
    cpus: float, gib: int, asked: float | None, weight: float
) -> None:
    assert weight_of(Capacity(cpus=cpus, memory_bytes=gib * GIB), asked) == weight


@given(st.floats(), st.integers(0, 2**64 - 1), st.none() | st.floats())
def test_whatever_a_worker_says_its_weight_is_in_the_range(cpus: float, memory: int, asked: float | None) -> None:
    assert LIGHTEST <= weight_of(Capacity(cpus=cpus, memory_bytes=memory), asked) <= HEAVIEST


def test_the_label_asks_for_a_weight() -> None:
    assert asked_weight({"zone": "a"}) is None
    assert asked_weight({WEIGHT_LABEL: "0.01"}) == 0.01
    assert asked_weight({WEIGHT_LABEL: "1000"}) == 1000


@pytest.mark.parametrize("text", ["", "0", "0.009", "1001", "-1", "nan", "inf", "heavy", "1e400", "\0"])
def test_another_weight_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"from 0\.01 to 1000") as refused:
        asked_weight({WEIGHT_LABEL: text})
    assert refused.value.violations[0].field == f"labels[{WEIGHT_LABEL}]"
