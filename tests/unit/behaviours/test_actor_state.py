"""How an actor's state is kept: typed or not, with versions."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from support.acting import RESOURCE, acting
from support.attempts import Attempts

from troupe.chassis.errors import DataLoss, InvalidArgument
from troupe.dataplane.behaviours.actor_context import ActorContext
from troupe.dataplane.behaviours.state import MAX_STATE, NewerState, StateForm
from troupe.v1.envelope_pb2 import Content


class Cart(Struct):
    items: dict[str, int] = {}
    paid: bool = False


class Shop:
    state_type = Cart

    async def receive(self, context: ActorContext, message: Content) -> None:
        cart: Cart = context.state
        if message.text:
            cart.items[message.text] = cart.items.get(message.text, 0) + 1


def form(**said: Any) -> StateForm:
    return StateForm.of(type("Said", (), said), RESOURCE)


@given(st.binary(max_size=200))
def test_bytes_come_back_as_they_were(state: bytes) -> None:
    assert form().read(form().write(state, "s")) == state


def test_a_session_that_never_had_a_state_has_an_empty_one() -> None:
    assert form().read(b"") == b""
    assert form(state_type=Cart).read(b"") == Cart()
    assert form().write(b"", "s") == b""


async def test_a_typed_state_changes_in_place_and_only_then() -> None:
    attempts = Attempts(text="pear")
    shop = acting(Shop, attempts)
    first = (await shop.run(attempts.begun())).state
    assert first is not None
    second = (await shop.run(attempts.begun(first))).state
    assert shop.form.read(second or b"") == Cart(items={"pear": 2})
    attempts.text = ""
    assert (await shop.run(attempts.begun(first))).state is None, "a turn that changed nothing writes nothing"
    assert shop.form.read(first) == Cart(items={"pear": 1}), "the state was given by value"


def _named(lines: list[str]) -> dict[str, Any]:
    return {"goods": {name: lines.count(name) for name in lines}}


def _renamed(older: dict[str, Any]) -> dict[str, Any]:
    return {"items": older["goods"], "paid": True}


def test_an_older_state_goes_through_each_version_on_its_way() -> None:
    oldest = form(state_type=list).write(["pear", "plum", "pear"], "s")
    newest = form(state_type=Cart, schema=3, upcasters={1: _named, 2: _renamed})
    assert newest.read(oldest) == Cart({"pear": 2, "plum": 1}, paid=True)
    from_bytes = form(state_type=Cart, schema=2, upcasters={1: lambda older: {"items": {older.decode(): 1}}})
    assert from_bytes.read(form().write(b"pear", "s")) == Cart({"pear": 1})


def test_a_state_that_an_older_version_wrote_is_read_byte_for_byte() -> None:
    stored = bytes.fromhex("9201 82a56974656d7381a470656172 02a4 70616964c3".replace(" ", ""))
    assert form(state_type=Cart).read(stored) == Cart({"pear": 2}, paid=True)


def test_a_newer_state_is_refused_for_now() -> None:
    newer = form(schema=2, upcasters={1: bytes}).write(b"x", "s")
    with pytest.raises(NewerState, match=f"{RESOURCE}: the state has schema 2, this revision reads up to 1") as raised:
        form().read(newer)
    assert (raised.value.reason, raised.value.retryable) == ("NEWER_STATE", True)


def test_a_state_that_does_not_become_the_type_is_said_to() -> None:
    with pytest.raises(DataLoss, match="of schema 1 does not become a Cart"):
        form(state_type=Cart, schema=2, upcasters={1: lambda _: {"items": 5}}).read(form().write(b"x", "s"))
    with pytest.raises(DataLoss, match="cannot be read"):
        form(state_type=Cart).read(form().write(b"x", "s"))
    with pytest.raises(DataLoss, match="cannot be read"):
        form().read(b"plain")


@pytest.mark.parametrize(
    ("said", "state", "reason"),
    [
        ({}, "text", "BAD_STATE"),
        ({"state_type": Cart}, {"items": {}}, "BAD_STATE"),
        ({"state_type": dict}, {"x": object()}, "BAD_STATE"),
        ({}, b"x" * (MAX_STATE + 1), "STATE_TOO_LARGE"),
        ({"state_type": Cart}, Cart({"x" * MAX_STATE: 1}), "STATE_TOO_LARGE"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_not_tried_again(said: dict[str, Any], state: Any, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=RESOURCE) as raised:
        form(**said).write(state, "one")
    assert (raised.value.reason, raised.value.retryable) == (reason, False)


def test_a_state_over_its_limit_names_actor_session_size_and_limit() -> None:
    with pytest.raises(InvalidArgument, match=rf"{RESOURCE}: the state of session one has 4,194,31\d bytes, at most"):
        form().write(b"x" * (MAX_STATE + 9), "one")


@dataclass
class Needy:
    what: str
    more: list[int] = field(default_factory=list)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"schema": 2}, "needs an upcaster from each schema before it"),
        ({"upcasters": {1: bytes}}, "needs an upcaster"),
        ({"schema": 3, "upcasters": {2: bytes}}, "has them from"),
        ({"state_type": Needy}, "can be made without arguments"),
        ({"state_type": object}, "stored as MessagePack"),
    ],
)
def test_a_class_that_cannot_keep_its_state_is_refused_when_it_is_applied(said: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        form(**said)
