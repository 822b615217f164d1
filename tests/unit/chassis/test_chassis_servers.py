"""Which of several control planes is called next."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.chassis.errors import DeadlineExceeded, FailedPrecondition, TroupeError, Unavailable
from troupe.chassis.servers import Servers, addresses, is_elsewhere

GONE = Unavailable("UNAVAILABLE", "no answer")
NAMED = ["a:1", "b:1", "c:1"]


def led_by(address: str) -> Unavailable:
    return Unavailable("NOT_LEADER", "another leads", metadata={"leader_address": address})


def test_those_that_do_not_answer_are_passed_over_once_each_round() -> None:
    servers = Servers(NAMED)
    assert (servers.failed(GONE), servers.address) == (True, "b:1")
    assert (servers.failed(GONE), servers.address) == (True, "c:1")
    assert (servers.failed(GONE), servers.address) == (False, "a:1"), "all were tried: time to wait"
    assert (servers.failed(GONE), servers.address) == (True, "b:1")


def test_the_leader_is_followed_and_kept() -> None:
    servers = Servers(NAMED)
    assert (servers.failed(led_by("c:1")), servers.address) == (True, "c:1")
    servers.answered()
    assert servers.address == "c:1"
    assert (servers.failed(led_by("a:1")), servers.address) == (True, "a:1")


def test_a_leader_that_was_not_named_is_followed_and_forgotten_when_it_is_gone() -> None:
    servers = Servers(["a:1"])
    assert (servers.failed(led_by("z:9")), servers.address) == (True, "z:9")
    servers.answered()
    assert (servers.failed(GONE), servers.address) == (True, "a:1")


def test_two_that_name_each_other_are_not_asked_without_end() -> None:
    servers = Servers(["a:1", "b:1"])
    assert servers.failed(led_by("b:1"))
    assert not servers.failed(led_by("a:1"))


def test_a_leader_that_is_gone_does_not_keep_the_others_from_being_asked() -> None:
    servers = Servers(NAMED)
    asked = [servers.address]
    while servers.failed(GONE if servers.address == "z:9" else led_by("z:9")):
        asked.append(servers.address)
    assert sorted(asked) == ["a:1", "b:1", "c:1", "z:9"]


@pytest.mark.parametrize("named", ["", "no address", "host:70000"])
def test_what_is_no_address_of_a_leader_is_not_followed(named: str) -> None:
    servers = Servers(NAMED)
    servers.failed(led_by(named))
    assert servers.address == "b:1"


errors = st.one_of(st.just(GONE), st.sampled_from([*NAMED, "x:1", "y:1"]).map(led_by))


@given(st.lists(errors, min_size=40, max_size=60))
def test_a_round_asks_every_named_one_and_none_twice(failures: list[TroupeError]) -> None:
    servers, asked = Servers(NAMED), list[str]()
    for failure in failures:
        asked.append(servers.address)
        if not servers.failed(failure):
            assert len(set(asked)) == len(asked)
            assert set(NAMED) <= set(asked)
            asked = []
    assert len(asked) <= len(NAMED) + 2


def test_only_what_another_may_do_is_brought_to_another() -> None:
    assert is_elsewhere(GONE)
    assert is_elsewhere(DeadlineExceeded("DEADLINE_EXCEEDED", "too long"))
    assert not is_elsewhere(FailedPrecondition("REPLACED", "another process"))


def test_addresses_are_read_once_each() -> None:
    assert addresses(" a:1,b:2 , a:1,") == ["a:1", "b:2"]
    for wrong in ("", ",", "a", "a:1,b"):
        with pytest.raises(ValueError, match="host:port"):
            addresses(wrong)
