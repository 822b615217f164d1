import itertools
import threading
import time
import uuid
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from troupe.chassis.ids import Uuid7, uuid7


def test_an_id_is_a_uuid_of_version_7_made_now() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(uuid7())
    after = time.time_ns() // 1_000_000
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert before <= made.int >> 80 <= after + 1
    assert str(made) == str(uuid.UUID(str(made)))


@given(st.lists(st.integers(min_value=0, max_value=2**48 - 2), min_size=2), st.randoms(use_true_random=False))
def test_ids_increase_whatever_the_clock_does(clock: list[int], random: Random) -> None:
    ticks = iter(clock)
    source = Uuid7(now=lambda: next(ticks), random=random.getrandbits)
    made = [source() for _ in clock]
    assert all(first < second for first, second in itertools.pairwise(made))
    assert all(uuid.UUID(each).version == 7 and uuid.UUID(each).variant == uuid.RFC_4122 for each in made)


def test_a_tail_that_overflows_moves_to_the_next_millisecond() -> None:
    # Given a source whose random bits are all ones, so that its tail soon has no room left
    source = Uuid7(now=lambda: 1_000, random=lambda bits: (1 << bits) - 1)
    source._tail, source._millis = (1 << 74) - 2, 1_000
    first, second = uuid.UUID(source()), uuid.UUID(source())
    assert first.int >> 80 == 1_001
    assert first < second


def test_threads_never_get_the_same_id() -> None:
    made: list[list[str]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda own=own: own.extend(uuid7() for _ in range(2_000))) for own in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each for own in made for each in own}) == 8_000
    assert all(own == sorted(own) for own in made)
