"""When a server is told of acks."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

from troupe.broker.rabbitmq.telling import ACK_DELAY, Teller


class _Loop(asyncio.SelectorEventLoop):
    """Its clock moves when it is told to."""

    passed = 0.0

    def time(self) -> float:
        return self.passed

    def pass_to(self, moment: float) -> None:
        self.passed = moment
        self.run_until_complete(asyncio.sleep(0))
        self.run_until_complete(asyncio.sleep(0))


@pytest.fixture
def loop() -> Iterator[_Loop]:
    loop = _Loop()
    yield loop
    loop.close()


def _told(loop: _Loop, owe: Callable[[Teller], None]) -> list[bytes]:
    """What is written, by and by, once `owe` has had the teller."""
    written: list[bytes] = []

    async def begin() -> None:
        owe(Teller(written.append))

    loop.run_until_complete(begin())
    return written


def test_acks_of_several_consumers_wait_for_one_write(loop: _Loop) -> None:
    def owe(teller: Teller) -> None:
        teller.owe(lambda: b"one", at_once=False)
        teller.owe(lambda: b"two", at_once=False)

    written = _told(loop, owe)
    loop.pass_to(0.9 * ACK_DELAY)
    assert not written

    loop.pass_to(ACK_DELAY)

    assert written == [b"onetwo"]


def test_one_that_may_not_wait_takes_the_others_with_it(loop: _Loop) -> None:
    def owe(teller: Teller) -> None:
        teller.owe(lambda: b"one", at_once=False)
        teller.owe(lambda: b"two", at_once=True)
        teller.owe(lambda: b"three", at_once=True)

    written = _told(loop, owe)
    loop.pass_to(0.0)
    assert written == [b"onetwothree"]

    loop.pass_to(2 * ACK_DELAY)

    assert len(written) == 1, "what was told is not owed"


def test_after_one_write_the_next_ack_waits_anew(loop: _Loop) -> None:
    tellers: list[Teller] = []

    def owe(teller: Teller) -> None:
        tellers.append(teller)
        teller.owe(lambda: b"one", at_once=True)

    written = _told(loop, owe)
    loop.pass_to(0.0)
    tellers[0].owe(lambda: b"two", at_once=False)
    loop.pass_to(0.9 * ACK_DELAY)
    assert written == [b"one"]

    loop.pass_to(ACK_DELAY)

    assert written == [b"one", b"two"]


def test_what_is_void_by_then_writes_nothing(loop: _Loop) -> None:
    written = _told(loop, lambda teller: teller.owe(lambda: b"", at_once=False))

    loop.pass_to(ACK_DELAY)

    assert not written
