"""What an actor's class says of its sessions' state: type, version, and the way from older versions.

    class Cart:
        state_type = CartState      # a msgspec Struct or dataclass with defaults; left out: bytes
        schema = 2                  # left out: 1
        upcasters = {1: from_list}  # for each older version a function from its data to the next one's

An upcaster gets and returns plain data: bytes, or, of a typed state, what MessagePack is made of.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from troupe.chassis.errors import DataLoss, InvalidArgument, Unavailable

MAX_STATE: Final = 4 * 1024 * 1024
"""Bytes that a session's state may have."""

Upcaster = Callable[[Any], Any]


class NewerState(Unavailable):
    """A newer version of the class wrote the state. The revision with that version may come, or another worker has
    it."""


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    schema: int
    value: msgspec.Raw


_encode = msgspec.msgpack.Encoder().encode
_stored = msgspec.msgpack.Decoder(_Stored).decode


@dataclass(frozen=True)
class StateForm:
    """How the sessions of one actor keep their state. `resource` names it in errors."""

    resource: str
    type: type = bytes
    schema: int = 1
    upcasters: Mapping[int, Upcaster] | None = None

    @classmethod
    def of(cls, actor: Any, resource: str) -> "StateForm":
        """What the class `actor` says. Raises InvalidArgument where that cannot be."""
        form = cls(
            resource,
            getattr(actor, "state_type", bytes),
            getattr(actor, "schema", 1),
            dict(getattr(actor, "upcasters", {})),
        )
        upcasters = form.upcasters or {}
        if sorted(upcasters) != list(range(1, form.schema)):
            raise InvalidArgument(
                "BAD_UPCASTERS",
                f"{resource}: state of schema {form.schema} needs an upcaster from each schema before it, and has "
                f"them from {sorted(upcasters) or 'none'}",
                resource=resource,
            )
        try:
            form.read(form.write(form.type(), "") if form.type is not bytes else b"")
        except Exception as error:  # of the user's class
            raise InvalidArgument(
                "BAD_STATE_TYPE",
                f"{resource}: state_type must be a class that can be made without arguments and stored as MessagePack "
                f"({type(error).__name__}: {error})",
                resource=resource,
            ) from error
        return form

    def read(self, stored: bytes) -> Any:
        """The state as the actor sees it, a value of its own. Raises NewerState, DataLoss, and what an upcaster
        raises."""
        if not stored:
            return self.type()
        try:
            found = _stored(stored)
            if found.schema == self.schema:
                return msgspec.msgpack.decode(found.value, type=self.type)
            value = msgspec.msgpack.decode(found.value)
        except msgspec.MsgspecError as error:
            raise DataLoss("BAD_STATE", f"{self.resource}: a stored state cannot be read ({error})") from error
        if found.schema > self.schema:
            raise NewerState(
                "NEWER_STATE",
                f"{self.resource}: the state has schema {found.schema}, this revision reads up to {self.schema}: "
                "apply the newer one again",
            )
        for schema in range(found.schema, self.schema):
            value = (self.upcasters or {})[schema](value)
        try:
            return msgspec.convert(value, self.type)
        except msgspec.ValidationError as error:
            raise DataLoss(
                "BAD_STATE",
                f"{self.resource}: a state of schema {found.schema} does not become a {self.type.__name__} ({error})",
            ) from error

    def write(self, state: Any, session: str) -> bytes:
        """The state as it is stored. Raises InvalidArgument: BAD_STATE for one that is of another type or has no form,
        STATE_TOO_LARGE."""
        if not isinstance(state, self.type):
            what = f"{self.resource}: the actor's state is a {type(state).__name__}; it must be {self.type.__name__}"
            raise InvalidArgument("BAD_STATE", what, resource=self.resource)
        if self.type is bytes and not state:
            return b""
        try:
            value = _encode(state)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidArgument(
                "BAD_STATE", f"{self.resource}: the actor's state cannot be stored ({error})", resource=self.resource
            ) from error
        if len(value) > MAX_STATE:
            raise InvalidArgument(
                "STATE_TOO_LARGE",
                f"{self.resource}: the state of session {session} has {len(value):,} bytes, at most {MAX_STATE:,} are "
                "taken; keep less, or in several sessions",
                resource=self.resource,
            )
        return _encode(_Stored(self.schema, msgspec.Raw(value)))
