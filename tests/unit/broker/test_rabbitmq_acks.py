"""Which of a channel's deliveries are acked next."""

from hypothesis import given
from hypothesis import strategies as st

from troupe.broker.rabbitmq.acks import Acks


def test_neighbours_share_one_frame() -> None:
    acks = Acks()
    for tag in (2, 1, 3):
        acks.add(tag)

    assert acks.take() == (3, 3, [])


def test_what_waits_for_an_earlier_one_is_acked_alone() -> None:
    acks = Acks()
    acks.add(2)
    acks.add(3)
    assert acks.take() == (2, 0, [2, 3])

    acks.add(1)
    assert acks.take() == (1, 1, [])  # 3 is settled too, and the server knows that tag no more


def test_adding_counts_from_the_last_take() -> None:
    acks = Acks()

    assert [acks.add(1), acks.add(2)] == [1, 2]
    acks.take()
    assert acks.add(3) == 1


@given(st.permutations(range(1, 30)), st.data())
def test_the_server_hears_of_each_once_and_of_none_that_is_not_settled(order: list[int], data: st.DataObject) -> None:
    acks, unacked, settled = Acks(), set(order), set[int]()
    for tag in order:
        settled.add(tag)
        acks.add(tag)
        if data.draw(st.booleans()):
            _tell(acks, unacked, settled)
    _tell(acks, unacked, settled)

    assert unacked == set()


def _tell(acks: Acks, unacked: set[int], settled: set[int]) -> None:
    """As the server takes it: it closes the channel at a tag that is not unacked."""
    _, up_to, single = acks.take()
    if up_to:
        assert up_to in unacked
        together = {tag for tag in unacked if tag <= up_to}
        assert together <= settled
        unacked -= together
    for tag in single:
        assert tag in settled
        unacked.remove(tag)
