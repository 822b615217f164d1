"""Which servers are trusted, what is said of others, and where they are."""

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import exceptions
from pika.adapters.utils.connection_workflow import AMQPConnectorSocketConnectError

from troupe.broker.rabbitmq import errors, server, url
from troupe.broker.rabbitmq.lane import LONGEST_PAUSE, failed, pause
from troupe.chassis.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("3.10.0", (3, 10, 0)), ("3.13", (3, 13, 0)), ("4.3.1-rc.2", (4, 3, 1)), ("4.1.0+7", (4, 1, 0))],
)
def test_new_enough_servers_are_taken(version: str, numbers: tuple[int, ...]) -> None:
    assert server.check({"product": "RabbitMQ", "version": version}) == numbers


@pytest.mark.parametrize(
    "properties",
    [
        None,
        {},
        {"product": "RabbitMQ", "version": "3.9.29"},
        {"product": "RabbitMQ", "version": "new"},
        {"product": "Other", "version": "9.9.9"},
    ],
)
def test_others_are_refused_with_what_is_needed(properties: dict[str, object] | None) -> None:
    with pytest.raises(FailedPrecondition, match=r"needs (RabbitMQ )?3\.10 or newer"):
        server.check(properties)


@pytest.mark.parametrize(("version", "warned"), [((4, 2, 9), 0), ((4, 3, 0), 1), ((4, 3, 5), 1), ((4, 3, 6), 0)])
def test_releases_that_wedge_are_warned_of(version: tuple[int, ...], warned: int) -> None:
    assert len(server.warnings(version)) == warned


def test_a_url_has_the_usual_defaults() -> None:
    found = url.parameters("amqp://host", "test")

    assert (found.host, found.port, found.virtual_host, found.heartbeat) == ("host", 5672, "/", 5)
    assert (vars(found.credentials)["username"], vars(found.credentials)["password"]) == ("guest", "guest")
    assert found.ssl_options is None


def test_a_url_says_it_all() -> None:
    found = url.parameters("amqps://us%40er:p%2Fw@host:1234/%2Fa%20b?heartbeat=9", "test")

    assert (found.host, found.port, found.virtual_host, found.heartbeat) == ("host", 1234, "/a b", 9)
    assert (vars(found.credentials)["username"], vars(found.credentials)["password"]) == ("us@er", "p/w")
    assert found.ssl_options is not None
    assert found.ssl_options.server_hostname == "host"
    assert found.ssl_options.context.check_hostname


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("http://host", "begins with neither"),
        ("amqp://", "names no host"),
        ("amqp://u:secret@host:port", "[Pp]ort"),
        ("amqp://u:secret@host/a/b", "%2F"),
        ("amqp://u:secret@host/?cafile=x", "no option 'cafile'; amqp has heartbeat"),
        ("amqps://u:secret@host/?verify=no", "no option 'verify'"),
        ("amqps://u:secret@host/?cafile=/nowhere", "its cafile /nowhere cannot be used"),
        ("amqp://u:secret@host/?heartbeat=0", "heartbeat must be 1 to 60"),
    ],
)
def test_a_url_that_cannot_be_used_says_why_and_keeps_the_password(bad: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why) as refused:
        url.parameters(bad, "test")

    assert "secret" not in str(refused.value)


def test_a_shown_url_has_no_credentials() -> None:
    assert url.shown("amqps://user:secret@host:5671/vhost?certfile=x") == "amqps://host:5671/vhost"


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (404, "NOT_FOUND - no queue", NotFound),
        (406, "PRECONDITION_FAILED - inequivalent arg", FailedPrecondition),
        (406, "PRECONDITION_FAILED - message size 9 is larger", InvalidArgument),
        (403, "ACCESS_REFUSED", FailedPrecondition),
        (541, "INTERNAL_ERROR", Unavailable),
    ],
)
def test_why_a_channel_was_closed_says_what_to_do_about_it(code: int, text: str, kind: type[Exception]) -> None:
    found = errors.closed(exceptions.ChannelClosedByBroker(code, text))

    assert type(found) is kind
    assert text in str(found)


def test_a_channel_that_went_with_its_connection_may_come_again() -> None:
    assert type(errors.closed(exceptions.StreamLostError("reset"))) is Unavailable


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_pauses_grow_to_a_bound(failures: int, dice: float) -> None:
    assert 0.02 <= pause(failures, dice) <= LONGEST_PAUSE
    assert pause(failures, dice) <= pause(failures + 1, dice)


def test_a_server_that_nobody_heard_of_for_long_is_tried_as_often_as_at_first() -> None:
    """RabbitMQ takes many seconds to start, and all of a fleet waits for it."""
    unheard = errors.refused(AMQPConnectorSocketConnectError(ConnectionRefusedError(111)), "h:1", tls=False)
    silent = errors.refused(AMQPConnectorSocketConnectError(TimeoutError()), "h:1", tls=False)

    away = [reduce(failed, [error] * 50, 1) for error in (unheard, silent)]

    assert pause(away[0], 0.99) <= 0.2
    assert pause(away[1], 0.99) > 4.9
    assert failed(failed(away[0], silent), silent) > away[0], "one that answers and cannot serve is given its time"
