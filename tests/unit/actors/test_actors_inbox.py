"""Which waiting message may start, and what an owner remembers of a session."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from troupe.broker.order import Number, Place, Position
from troupe.dataplane.actors.inbox import Choice, Empty, Gap, Start, Wait, choose
from troupe.dataplane.actors.memory import SessionMemory
from troupe.dataplane.state.port import RECENT, Entry, Loaded

streams = st.sampled_from(["a", "b", "c"])
numbers = st.builds(Number, streams, st.integers(1, 6))
entries = st.builds(
    Entry,
    number=numbers,
    message_id=st.sampled_from(["m1", "m2", "m3"]),
    digest=st.just(b""),
    placed=st.just(0.0),
    not_before=st.sampled_from([0.0, 5.0, 20.0]),
    attempts=st.integers(0, 2),
)
positions = st.builds(
    lambda settled, gaps: Position(settled, frozenset(gap for gap in gaps if gap <= settled)),
    st.integers(0, 5),
    st.frozensets(st.integers(1, 5), max_size=2),
)
inboxes = st.lists(entries, max_size=6, unique_by=lambda entry: entry.number)


def _naive(inbox: list[Entry], known: dict[str, Position], now: float) -> Choice:
    if not inbox:
        return Empty()
    for entry in inbox:
        position = known.get(entry.number.stream, Position())
        sequence = entry.number.sequence
        filled = sequence in position.gaps
        if filled or sequence == position.settled + 1:
            return Start(entry) if entry.not_before <= now else Wait(entry.not_before)
    stream = inbox[0].number.stream
    return Gap(Number(stream, known.get(stream, Position()).settled + 1))


@given(inboxes, st.dictionaries(streams, positions), st.sampled_from([0.0, 10.0, 30.0]))
def test_the_first_that_comes_next_in_its_stream_starts(
    inbox: list[Entry], known: dict[str, Position], now: float
) -> None:
    assert choose(inbox, known, now) == _naive(inbox, known, now)


@given(inboxes)
def test_each_message_starts_once_and_in_the_order_of_its_stream(inbox: list[Entry]) -> None:
    memory = SessionMemory()
    memory.take_up(Loaded(inbox=inbox))
    ran: list[Number] = []
    while True:
        match memory.choose(100.0):
            case Start(entry):
                ran.append(entry.number)
                memory.settle(entry.number)
            case Gap(missing):
                assert memory.lacks(missing)
                memory.pass_over(missing)
            case Wait() | Empty():
                break
    assert sorted(ran, key=repr) == sorted((entry.number for entry in inbox), key=repr)
    for stream in ("a", "b", "c"):
        sequences = [number.sequence for number in ran if number.stream == stream]
        assert sequences == sorted(sequences)
    assert all(memory.place(number) is Place.SETTLED for number in ran)


def entry(sequence: int, message_id: str = "m", **parts: float) -> Entry:
    return replace(Entry(Number("a", sequence), message_id, b"", 0.0), **parts)  # type: ignore[arg-type]


def test_a_failed_message_goes_to_the_head() -> None:
    memory = SessionMemory()
    memory.take_up(Loaded(inbox=[entry(1), entry(2)]))
    memory.put_first(entry(1, failures=1, not_before=9.0))
    assert memory.choose(0.0) == Wait(9.0)
    assert [waiting.number.sequence for waiting in memory.inbox] == [1, 2]


def test_a_cancelled_message_may_have_a_record_from_then_on() -> None:
    memory = SessionMemory()
    assert not memory.may_have_record("m")
    memory.wait(entry(1))
    memory.cancel("m")
    assert memory.may_have_record("m")
    assert memory.inbox == [entry(1, skip=True)]


def test_a_cancelled_message_that_began_is_settled_by_a_turn_soon() -> None:
    memory = SessionMemory()
    memory.wait(entry(1, attempts=1, not_before=50.0))
    memory.cancel("m")
    assert memory.choose(0.0) == Start(entry(1, attempts=1))


def test_a_cancel_that_a_load_had_not_seen_is_kept() -> None:
    memory = SessionMemory()
    memory.cancel("m")
    memory.take_up(Loaded())
    assert memory.is_cancelled("m")
    assert memory.may_have_record("m")


def test_a_record_makes_copies_of_what_waits() -> None:
    memory = SessionMemory()
    memory.wait(entry(2))
    memory.record("m")
    assert memory.inbox == [entry(2, skip=True)]
    assert memory.may_have_record("m")
    assert not memory.may_have_record("other")


def test_when_not_all_records_are_known_any_message_may_have_one() -> None:
    memory = SessionMemory()
    for number in range(RECENT + 1):
        memory.record(f"m{number}")
    assert memory.may_have_record("never seen")
    memory.take_up(Loaded(recent=[f"m{number}" for number in range(RECENT)]))
    assert memory.may_have_record("never seen")
