"""Which waiting message may start, and what an owner remembers of a session."""

import time
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from troupe.broker.order import Number, Place, Position
from troupe.dataplane.actors.inbox import Choice, Empty, Gap, Held, Inbox, Run, Start, Suspended, Wait
from troupe.dataplane.actors.memory import SessionMemory
from troupe.dataplane.state.session import RECENT, Entry, Loaded, Mark, Outgoing, Sent, Verbs

streams = st.sampled_from(["a", "b", "c"])
numbers = st.builds(Number, streams, st.integers(1, 6))
entries = st.builds(
    Entry,
    number=numbers,
    message_id=st.sampled_from(["m1", "m2", "m3"]),
    digest=st.just(b""),
    placed=st.just(0.0),
    skip=st.booleans(),
    not_before=st.sampled_from([0.0, 5.0, 20.0]),
    attempts=st.integers(0, 2),
    awaits=st.sampled_from([(), (), (), ("m1/answer",)]),
    running=st.sampled_from([None, None, None, Mark(1, "other")]),
)
positions = st.builds(
    lambda settled, gaps: Position(settled, frozenset(gap for gap in gaps if gap <= settled)),
    st.integers(0, 5),
    st.frozensets(st.integers(1, 5), max_size=2),
)
ids = st.frozensets(st.sampled_from(["m1", "m2", "m3"]), max_size=2)
recorded = st.builds(Verbs, cancelled=ids, paused=ids)
inboxes = st.lists(entries, max_size=6, unique_by=lambda entry: entry.number)


class Naive:
    """What an inbox is, said in the plainest way."""

    def __init__(self, inbox: list[Entry], known: dict[str, Position]) -> None:
        self.inbox, self.known = list(inbox), dict(known)

    def position(self, stream: str) -> Position:
        return self.known.get(stream, Position())

    def choose(self, now: float, verbs: Verbs) -> Choice | list[Held]:
        marked = [Held(entry) for entry in self.inbox if entry.running and not entry.skip]
        if marked:
            return marked
        for entry in self.inbox:
            if self.position(entry.number.stream).place(entry.number.sequence) is Place.NEXT:
                if not entry.skip and entry.message_id not in verbs.cancelled:
                    if entry.awaits or entry.message_id in verbs.paused:
                        return Suspended(entry)
                    if entry.not_before > now:
                        return Wait(entry.not_before)
                return Start(entry)
        if not self.inbox:
            return Empty()
        stream = self.inbox[0].number.stream
        return Gap(Number(stream, self.position(stream).settled + 1))

    def gaps(self) -> set[Run]:
        found = set()
        for stream in {entry.number.stream for entry in self.inbox}:
            first = min(entry.number.sequence for entry in self.inbox if entry.number.stream == stream)
            if first > self.position(stream).settled + 1:
                found.add(Run(stream, self.position(stream).settled + 1, first - 1))
        return found

    def drop(self, number: Number) -> None:
        self.inbox = [entry for entry in self.inbox if entry.number != number]


def _same(inbox: Inbox, naive: Naive, now: float, verbs: Verbs) -> None:
    assert list(inbox) == naive.inbox
    assert len(inbox) == len(naive.inbox)
    assert inbox.live == sum(not entry.skip for entry in naive.inbox)
    chosen, expected = inbox.choose(now, verbs), naive.choose(now, verbs)
    assert chosen in expected if isinstance(expected, list) else chosen == expected
    assert set(inbox.gaps()) == naive.gaps()
    for message_id in ("m1", "m2", "m3"):
        assert inbox.of(message_id) == [entry for entry in naive.inbox if entry.message_id == message_id]


@settings(max_examples=300)
@given(inboxes, st.dictionaries(streams, positions), st.data())
def test_an_indexed_inbox_is_as_a_plain_list_would_be(
    inbox: list[Entry], known: dict[str, Position], data: st.DataObject
) -> None:
    indexed, naive = Inbox(inbox, known), Naive(inbox, known)
    for _ in range(data.draw(st.integers(0, 25))):
        _same(indexed, naive, data.draw(st.sampled_from([0.0, 10.0, 30.0])), data.draw(recorded))
        match data.draw(st.sampled_from(["append", "put_first", "replace", "settle", "pass_over"])):
            case "append":
                entry = data.draw(entries)
                indexed.append(entry)
                naive.drop(entry.number)
                naive.inbox.append(entry)
            case "put_first":
                entry = data.draw(entries)
                indexed.put_first(entry)
                naive.drop(entry.number)
                naive.inbox.insert(0, entry)
            case "replace" if naive.inbox:
                other = data.draw(st.sampled_from(naive.inbox))
                entry = replace(data.draw(entries), number=other.number)
                indexed.replace(entry)
                naive.inbox[naive.inbox.index(other)] = entry
            case "settle":
                number = data.draw(numbers)
                indexed.settle(number)
                naive.drop(number)
                position = naive.position(number.stream)
                if position.place(number.sequence) is Place.NEXT:
                    naive.known[number.stream] = position.settle(number.sequence)
            case "pass_over":
                for run in sorted(naive.gaps(), key=repr)[:1]:
                    indexed.pass_over(Number(run.stream, run.first), len(run))
                    naive.known[run.stream] = naive.position(run.stream).pass_over(len(run))
    _same(indexed, naive, 100.0, Verbs())


def test_ten_thousand_that_wait_are_chosen_from_without_walking_through_them() -> None:
    inbox = Inbox([entry(sequence, f"m{sequence}") for sequence in range(2, 10_001)])
    inbox.append(Entry(Number("b", 1), "other", b"", 0.0))
    began = time.perf_counter()
    for _ in range(10_000):
        assert isinstance(inbox.choose(0.0), Start)
        assert inbox.gap("a") == Run("a", 1, 1)
        inbox.replace(Entry(Number("b", 1), "other", b"", 0.0))
    assert time.perf_counter() - began < 10.0, "a walk through them takes minutes"


@given(inboxes, st.dictionaries(streams, positions))
def test_what_follows_is_what_would_start_next_one_after_the_other(
    inbox: list[Entry], known: dict[str, Position]
) -> None:
    plain = [replace(each, running=None, awaits=(), not_before=0.0) for each in inbox]
    walked, looked = Inbox(plain, known), Inbox(plain, known)
    match walked.choose(0.0):
        case Start(first):
            ahead = list(looked.following(first))
        case _:
            return
    started = []
    while isinstance(choice := walked.choose(0.0), Start):
        started.append(choice.entry)
        walked.settle(choice.entry.number)
    assert [first, *ahead] == started
    assert looked.choose(0.0) == Start(first), "nothing has changed"


def test_a_batch_ends_before_what_is_not_fresh() -> None:
    fresh = [entry(sequence, f"m{sequence}") for sequence in range(1, 6)]
    for spoiled in (
        replace(fresh[2], skip=True),
        replace(fresh[2], attempts=1),
        replace(fresh[2], starts=1),
        replace(fresh[2], awaits=("m3/a",)),
        replace(fresh[2], redriven=True),
        replace(fresh[2], not_before=9.0),
    ):
        memory = SessionMemory()
        memory.take_up(Loaded(inbox=[*fresh[:2], spoiled, *fresh[3:]]))
        assert memory.batch(fresh[0], 10) == [fresh[1]]
        assert memory.batch(fresh[0], 1) == []
    for known in (
        Loaded(inbox=fresh, verbs=Verbs(paused={"m3"})),
        Loaded(inbox=fresh, verbs=Verbs(cancelled={"m3"})),
        Loaded(inbox=fresh, journaled={"m3"}),
    ):
        memory = SessionMemory()
        memory.take_up(known)
        assert memory.batch(fresh[0], 10) == [fresh[1]]
    memory.take_up(Loaded(inbox=fresh))
    assert memory.batch(fresh[0], 3) == fresh[1:3]
    assert memory.batch(replace(fresh[0], attempts=1), 3) == []


def test_heaps_do_not_grow_with_what_has_left() -> None:
    inbox = Inbox([Entry(Number("held", 2), "held", b"", 0.0)])
    for sequence in range(1, 5_000):
        inbox.append(entry(sequence, f"m{sequence}"))
        inbox.put_first(entry(sequence, f"m{sequence}"))
        inbox.settle(Number("a", sequence))
    assert len(inbox._all) + len(inbox._next) < 500
    assert inbox._sequences.keys() == {"held"}


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
            case Held(entry):
                taken = replace(entry, running=None, awaits=())
                memory.put_first(taken)
                if memory.place(entry.number) is not Place.NEXT:
                    continue
                assert memory.choose(100.0) == Start(taken) or memory.inbox._marked
            case Gap(missing):
                run = memory.inbox.gap(missing.stream)
                assert run is not None
                assert run.first == missing.sequence
                memory.pass_over(missing, len(run))
            case Suspended(entry):
                memory.put_first(replace(entry, awaits=()))
            case Wait() | Empty():
                break
    assert sorted(ran, key=repr) == sorted((entry.number for entry in inbox), key=repr)
    for stream in ("a", "b", "c"):
        sequences = [number.sequence for number in ran if number.stream == stream]
        assert sequences == sorted(sequences)
    assert all(memory.place(number) is Place.SETTLED for number in ran)


def entry(sequence: int, message_id: str = "m", **parts: Any) -> Entry:
    return replace(Entry(Number("a", sequence), message_id, b"", 0.0), **parts)


def test_a_failed_message_goes_to_the_head() -> None:
    memory = SessionMemory()
    memory.take_up(Loaded(inbox=[entry(1), entry(2)]))
    memory.put_first(entry(1, failures=1, not_before=9.0))
    assert memory.choose(0.0) == Wait(9.0)
    assert [waiting.number.sequence for waiting in memory.inbox] == [1, 2]


def test_a_message_that_is_suspended_holds_back_what_is_behind_it() -> None:
    memory = SessionMemory()
    paused = entry(1, "m1", not_before=9.0)
    memory.take_up(Loaded(inbox=[paused, entry(2, "m2")], verbs=Verbs(paused={"m1"})))
    assert memory.choose(0.0) == Suspended(paused)
    memory.take_up(Loaded(inbox=[entry(1, "m1", awaits=("m1/a",)), entry(2, "m2")]))
    assert isinstance(memory.choose(0.0), Suspended)


def test_what_is_cancelled_waits_for_nothing_more() -> None:
    memory = SessionMemory()
    waits = entry(1, attempts=1, not_before=50.0, awaits=("m/a",))
    memory.take_up(Loaded(inbox=[waits], verbs=Verbs(cancelled={"m"}, paused={"m"})))
    assert memory.choose(0.0) == Start(waits)


def test_a_session_rests_as_long_as_what_comes_next_is_the_one_that_it_rests_on() -> None:
    memory = SessionMemory()
    memory.wait(entry(1, "m1"))
    rests = [memory.at_rest]
    memory.rest(entry(1, "m1", suspended=5.0))
    assert memory.choose(0.0) == Suspended(entry(1, "m1", suspended=5.0)), "for RESUME"
    rests.append(memory.at_rest)
    memory.wait(entry(2, "m2"))
    rests.append(memory.at_rest)
    memory.put_first(Entry(Number("b", 1), "other", b"", 0.0, running=Mark(1, "old")))
    rests.append(memory.at_rest)
    memory.take_up(Loaded(inbox=[entry(1, "m1", suspended=5.0)], verbs=Verbs(paused={"m1"})))
    rests.append(memory.at_rest)
    assert rests == [False, True, True, False, False], "what was loaded may have been told otherwise since"


def test_a_snapshot_takes_the_place_of_the_history() -> None:
    memory = SessionMemory()
    memory.take_up(Loaded(snapshot=b"old", history=[b"a"]))
    memory.turn_over(1, None, b"b", None, [], 0.0)
    assert (memory.loaded.snapshot, list(memory.loaded.history)) == (b"old", [b"a", b"b"])
    memory.turn_over(2, None, b"c", b"new", [], 0.0)
    assert (memory.loaded.snapshot, list(memory.loaded.history)) == (b"new", [])
    memory.turn_over(3, None, b"d", None, [], 0.0)
    assert (memory.loaded.snapshot, list(memory.loaded.history)) == (b"new", [b"d"])


def test_a_record_makes_copies_of_what_waits() -> None:
    memory = SessionMemory()
    memory.wait(entry(2))
    memory.record("m")
    assert list(memory.inbox) == [entry(2, skip=True)]
    assert memory.may_have_record("m")
    assert not memory.may_have_record("other")


def test_when_not_all_records_are_known_any_message_may_have_one() -> None:
    memory = SessionMemory()
    memory.take_up(Loaded(recent=[f"m{number}" for number in range(RECENT)]))
    assert memory.may_have_record("never seen")


def test_what_waits_behind_a_mark_is_held_until_the_mark_goes() -> None:
    memory = SessionMemory()
    marked = entry(1, running=Mark(1, "other"))
    memory.take_up(Loaded(inbox=[marked, entry(2)]))
    assert memory.choose(0.0) == Held(marked)
    memory.put_first(entry(1, starts=1))
    assert memory.choose(0.0) == Start(entry(1, starts=1))


def test_a_skip_under_a_mark_holds_nobody() -> None:
    memory = SessionMemory()
    memory.take_up(Loaded(inbox=[entry(1, skip=True, running=Mark(1, "other"))]))
    assert isinstance(memory.choose(0.0), Start)


def test_what_a_turn_sent_is_known_until_it_is_struck_and_its_stream_goes_on() -> None:
    memory = SessionMemory()
    memory.take_up(Loaded(sent={"to": Sent(Number("s", 4), 10.0)}))
    memory.turn_over(1, None, None, None, [Outgoing("to", Number("s", 5), b"")], 20.0)
    assert list(memory.outbox) == [Number("s", 5)]
    assert memory.loaded.sent == {"to": Sent(Number("s", 5), 20.0)}
    memory.strike([Number("s", 5)])
    assert not memory.outbox
    assert memory.loaded.sent == {"to": Sent(Number("s", 5), 20.0)}


def test_the_rest_of_what_was_missed_is_within_it() -> None:
    assert Run("a", 3, 9).within(Run("a", 2, 5)) == Run("a", 3, 5)
    assert Run("a", 3, 9).within(Run("a", 4, 5)) is None
    assert Run("a", 6, 9).within(Run("a", 2, 5)) is None
    assert Run("a", 3, 9).within(Run("b", 2, 5)) is None
