"""What a worker makes of what it sees of itself."""

from hypothesis import given
from hypothesis import strategies as st

from troupe.broker.addressing import SessionKey
from troupe.dataplane.actors.progress import BROKER, CODE, STORE, HeldUp
from troupe.dataplane.condition import BLOCKED, DEGRADED, FREED, FULL, RECOVERED, Look, trouble

NOW = 1_000.0
KEY = SessionKey("default", "default", "clerk", "s")

# Eighths, whose differences are exact.
ages = st.none() | st.integers(-4800, 4800).map(lambda eighths: eighths / 8)
shares = st.floats(0.0, 1.0)


def look(age: float | None, busy: float = 0.1, blocked: float = 0.0, cause: int = STORE) -> Look:
    held = None if age is None else HeldUp(NOW - age, cause, KEY, "m")  # type: ignore[arg-type]
    return Look(NOW, held, busy, blocked)


@given(ages, shares, shares)
def test_trouble_is_what_is_held_up_while_there_is_time_or_a_blocked_loop(
    age: float | None, busy: float, blocked: float
) -> None:
    held_up = age is not None and age > DEGRADED and busy < FULL
    assert bool(trouble(look(age, busy, blocked), "")) == (held_up or blocked > BLOCKED)


@given(ages, shares, shares)
def test_it_ends_well_below_where_it_began(age: float | None, busy: float, blocked: float) -> None:
    over = (age is None or age <= RECOVERED or busy >= FULL) and blocked <= FREED
    assert bool(trouble(look(age, busy, blocked), "before")) != over


@given(st.floats(RECOVERED + 0.1, DEGRADED - 0.1), st.sampled_from(["", "before"]))
def test_in_between_it_goes_on_as_it_was(age: float, before: str) -> None:
    assert bool(trouble(look(age), before)) is bool(before)


def test_the_cause_is_named_and_stays_the_same_while_it_lasts() -> None:
    said = trouble(look(11.0), "")
    assert said == "the state store does not answer: message m of session clerk/s is held up for more than 10 s"
    assert trouble(look(50.0), said) == said
    assert "the broker does not answer" in trouble(look(11.0, cause=BROKER), "")
    assert "does not end at its deadline" in trouble(look(11.0, cause=CODE), "")
    assert trouble(Look(NOW, HeldUp(NOW - 11, BROKER), 0.1, 0.0), "").endswith("a shard is held up for more than 10 s")
    blocked = trouble(Look(NOW, None, 0.1, 0.9, "tool.py:3 wait of clerk s m"), "")
    assert blocked == "something blocks the event loop again and again: tool.py:3 wait of clerk s m"
