import errno
from collections.abc import Iterator

import pytest

from troupe.chassis import address
from troupe.chassis.address import Address
from troupe.chassis.errors import FailedPrecondition


@pytest.fixture
def busy() -> Iterator[Address]:
    """An address of loopback at which somebody listens, with a free port after it."""
    for _ in range(100):
        with address.bind(Address("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            try:
                address.bind(Address("127.0.0.1", port + 1)).close()
            except (OSError, OverflowError):
                continue
            yield Address("127.0.0.1", port)
            return
    pytest.fail("no two ports in a row are free on this machine")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:7070", "127.0.0.1", 7070), ("[::1]:0", "::1", 0), ("worker-0.fleet:65535", "worker-0.fleet", 65535)],
)
def test_addresses_read_and_print_the_same(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize("text", ["", "7070", ":7070", "localhost", "localhost:", "h:70000", "h:-1", "::1:7070", "h:x"])
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.8.9.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.7:1", False),
        ("localhost.example:1", False),
    ],
)
def test_loopback_is_told_from_what_others_can_reach(text: str, loopback: bool) -> None:
    assert Address.parse(text).loopback is loopback


def test_a_busy_default_port_moves_to_the_next(busy: Address) -> None:
    with address.listening(str(busy), asked=False) as listener:
        assert listener.getsockname()[1] == busy.port + 1


def test_a_busy_port_that_was_asked_for_is_one_line_that_says_what_to_do(busy: Address) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        address.listening(str(busy), asked=True, setting="metrics_listen")
    assert caught.value.reason == "PORT_IN_USE"
    assert str(caught.value) == (
        f"port {busy.port} is in use at 127.0.0.1: name another with --metrics-listen HOST:PORT, "
        "or let the system pick one with --metrics-listen 127.0.0.1:0"
    )


@pytest.mark.parametrize(
    ("listen", "asked", "tried"),
    [
        ("127.0.0.1:7070", False, range(7070, 7170)),
        ("127.0.0.1:65534", False, range(65_534, 65_536)),
        ("127.0.0.1:7070", True, range(7070, 7071)),
        ("127.0.0.1:0", False, range(1)),
    ],
)
def test_the_search_ends(listen: str, asked: bool, tried: range) -> None:
    seen = []

    def attempt(wanted: Address) -> None:
        seen.append(wanted.port)
        raise OSError(errno.EADDRINUSE, "busy")

    with pytest.raises(FailedPrecondition, match=f"{tried[-1]} (is|are all) in use"):
        address.bound(listen, attempt, asked=asked)
    assert seen == list(tried)


def test_port_0_is_any_free_one_also_when_asked_for() -> None:
    with address.listening("127.0.0.1:0", asked=True) as listener:
        assert listener.getsockname()[1] > 0


def test_localhost_is_one_address() -> None:
    assert address.bound("localhost:7070", str, asked=True) == "127.0.0.1:7070"


def test_an_address_of_another_machine_does_not_try_other_ports() -> None:
    with pytest.raises(
        FailedPrecondition, match=r"cannot listen at 192\.0\.2\.1:7070: .*change the setting listen"
    ) as caught:
        address.listening("192.0.2.1:7070", asked=False)
    assert caught.value.reason == "CANNOT_LISTEN"
