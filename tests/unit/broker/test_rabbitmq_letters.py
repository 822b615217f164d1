"""Dead letters as messages."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import spec
from support.brokers import letter
from support.mailboxes import message

from troupe.broker.port import DeadLetter
from troupe.broker.rabbitmq import letters, wire

FRAME_MAX = 131_072
BORN = datetime(2026, 11, 26, 12, 0, 5)
BY_SERVER = {
    "x-death": [{"reason": "delivery_limit", "queue": "troupe.v1.mailbox.0", "time": BORN, "count": 1}],
    "x-first-death-reason": "delivery_limit",
    "x-first-death-queue": "troupe.v1.mailbox.0",
}


def _travelled(sent: DeadLetter) -> DeadLetter:
    encoded = wire.properties(7, letters.headers(sent), sent.id)
    assert len(encoded) < FRAME_MAX
    properties = spec.BasicProperties().decode(encoded)
    return letters.read(sent.pool, sent.body, properties.headers or {}, properties.message_id, 0.0)


@given(st.floats(0, 4e9), st.floats(0, 4e9), st.text(), st.integers(0, 2**31))
def test_a_letter_comes_back_as_it_was(first: float, last: float, error: str, attempts: int) -> None:
    sent = DeadLetter("id", b"\x00", "gpu", "m", "a/b/c/d", "R", error, attempts, first, last, "w", "r", "t")

    assert _travelled(sent) == sent


@pytest.mark.parametrize("time", ["", "soon", "nan", "inf", "-1", "1e300", 7, None])
def test_a_time_that_is_none_is_that_of_the_letter(time: object) -> None:
    headers = letters.headers(letter()) | {"troupe-first_failed": time}

    assert letters.read("agents", b"", headers, "id", 99.0).first_failed == 99.0


def test_the_longest_texts_fit_one_frame() -> None:
    text = "\udc80" * 200_000
    sent = DeadLetter("id", b"", "agents", text, text, text, text, 1, 1.0, 1.0, text, text, text)

    found = _travelled(sent)

    assert sent.error.encode(errors="backslashreplace").decode().startswith(found.error)


def test_what_the_server_gave_up_is_read_from_its_body_and_its_death() -> None:
    found = letters.read("agents", message(3, stream="s").SerializeToString(), BY_SERVER, None, 99.0)

    assert (found.reason, found.message_id, found.session) == ("DELIVERY_LIMIT", "s-3", "default/default/clerk/session")
    assert found.first_failed == found.last_failed == BORN.replace(tzinfo=UTC).timestamp()
    assert "troupe.v1.mailbox.0" in found.error


def test_what_the_server_gave_up_after_a_delay_says_why_it_was_given_up() -> None:
    delay = {"reason": "expired", "queue": "troupe.v1.delay.100", "time": BORN, "count": 1}
    headers = {
        "x-death": [{**delay, "reason": "delivery_limit", "queue": "troupe.v1.task.gpu"}, delay],
        "x-first-death-reason": "expired",
        "x-first-death-queue": "troupe.v1.delay.100",
    }

    found = letters.read("gpu", b"", headers, None, 9.0)

    assert found.reason == "DELIVERY_LIMIT"
    assert "troupe.v1.task.gpu" in found.error


def test_what_the_server_gave_up_is_the_same_letter_at_each_look() -> None:
    looks = [letters.read("agents", b"\xff", {**BY_SERVER, "x-delivery-count": count}, None, 9.0) for count in (0, 1)]

    assert looks[0] == looks[1]
    assert looks[0].id[14] == "7"
    assert letters.read("agents", b"other", BY_SERVER, None, 9.0).id != looks[0].id
    assert (looks[0].message_id, looks[0].session) == ("", "")


def test_a_message_of_which_nothing_is_known_is_a_letter_too() -> None:
    found = letters.read("gpu", b"", {}, None, 42.0)

    assert (found.reason, found.last_failed, found.pool) == ("UNKNOWN", 42.0, "gpu")


def test_ids_of_letters_sort_by_time() -> None:
    def at(second: int) -> str:
        death = {"reason": "rejected", "time": BORN.replace(second=second)}
        return letters.read("agents", b"x", {"x-death": [death]}, None, 0.0).id

    assert at(1) < at(2) < at(3)


def test_letters_are_told_apart_by_who_wrote_them() -> None:
    assert letters.read("agents", b"", letters.headers(letter()), None, 1.0).reason == "UNKNOWN"
