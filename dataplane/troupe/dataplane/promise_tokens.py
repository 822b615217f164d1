"""Promise tokens: who holds one may settle the promise that it names. Pure.

A token is `tp_`, the promise's name (base64url of a PromiseRef, tenant included), a dot, and 128 random bits in hex. It
is a secret: the state store has only its SHA-256, and nothing logs it.
"""

import base64
import binascii
import hashlib
import re
from typing import Final

from google.protobuf.message import DecodeError

from troupe.broker.addressing import SessionKey
from troupe.chassis.errors import InvalidArgument
from troupe.v1.promise_pb2 import PromiseRef

SECRET: Final = 16
"""Random bytes of a token."""
MAX_TOKEN: Final = 2048

_FORM: Final = re.compile(rf"tp_(?P<name>[A-Za-z0-9_-]+={{0,2}})\.[0-9a-f]{{{2 * SECRET}}}")


def fresh(key: SessionKey, promise_id: str, secret: bytes) -> str:
    """A token for the promise. `secret` are SECRET random bytes."""
    name = PromiseRef(session=key.ref(), promise_id=promise_id).SerializeToString()
    return f"tp_{base64.urlsafe_b64encode(name).decode().rstrip('=')}.{secret.hex()}"


def named(token: str) -> tuple[SessionKey, str]:
    """The session and the id of the promise that the token names; whether it is the promise's own only its hash can
    tell. Raises InvalidArgument for what is no token."""
    form = _FORM.fullmatch(token) if len(token) <= MAX_TOKEN else None
    if form is not None:
        try:
            name = form["name"].rstrip("=")
            ref = PromiseRef.FromString(base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)))
            if ref.promise_id:
                return SessionKey.of(ref.session), ref.promise_id
        except (DecodeError, binascii.Error, InvalidArgument):
            pass
    raise InvalidArgument("BAD_TOKEN", "token: is no promise's; pass it on as it was given out, from tp_ to its end")


def hashed(token: str) -> bytes:
    """What the store has of it."""
    return hashlib.sha256(token.encode()).digest()
