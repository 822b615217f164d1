"""JSON Web Tokens of an issuer. The one module that knows PyJWT.

Only signatures by private keys are taken: a token signed with a shared secret could be made by whoever checks it. The
algorithm is that of the key, never that which the token names, so `none` and a public key used as a secret are both
refused.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
import structlog

from troupe.chassis.access import claims
from troupe.chassis.access.roles import Caller
from troupe.chassis.rpc_errors import Unauthenticated

log = structlog.get_logger()

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
LEEWAY: Final = 30.0
"""Seconds that the issuer's clock and ours may differ."""
REMEMBERED: Final = 60.0
"""Seconds for which a token that was checked is not checked again; also how long one outlives its key."""
MAX_REMEMBERED: Final = 10_000
MAX_KEYS: Final = 100

Keys = Mapping[str, jwt.PyJWK]
"""By their ids; "" where the only key has none."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose tokens are taken, and for whom they must be made."""

    issuer: str
    audience: str
    role_claim: str


def keys_of(document: bytes) -> Keys:
    """The usable keys of a JWK Set: public ones that sign. Others are passed over, as the standard says. Raises
    ValueError where it is no JWK Set or holds no usable key."""
    try:
        listed = json.loads(document)["keys"]
        found = {str(key.key_id or ""): key for one in listed[:MAX_KEYS] if (key := _usable(one)) is not None}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("it is no JWK Set") from error
    if not found:
        raise ValueError("it holds no public key for signatures")
    return found


def key_id(token: str) -> str:
    """The id of the key that a token names, "" where it names none. Raises Unauthenticated BAD_CREDENTIAL."""
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, RecursionError) as error:
        raise _bad("it is neither a known token nor a JWT") from error
    if header.get("alg") not in ALGORITHMS:
        raise _bad("its algorithm is not one of public keys")
    if "crit" in header:
        raise _bad("it demands extensions that are not known here")
    return str(header.get("kid") or "")


def verified(token: str, key: jwt.PyJWK, issuer: Issuer) -> tuple[Caller, float]:
    """Whose token it is, and until when, in seconds since the epoch. Raises Unauthenticated (BAD_CREDENTIAL,
    TOKEN_EXPIRED)."""
    try:
        found: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            issuer=issuer.issuer,
            audience=issuer.audience,
            leeway=LEEWAY,
            options={"require": ["exp", "iss", "aud", "sub"], "enforce_minimum_key_length": True},
        )
        return claims.of_claims(found, issuer.role_claim), float(found["exp"]) + LEEWAY
    except jwt.ExpiredSignatureError as error:
        raise Unauthenticated("TOKEN_EXPIRED", "the token has expired; get a new one from its issuer") from error
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _bad(str(error)) from error


class Remembered:
    """Tokens that were checked lately, by their digests."""

    def __init__(self) -> None:
        self._callers: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()

    def get(self, token: str, now: float) -> Caller | None:
        """Whose token it is; None where that must be found out. `now` is in seconds since the epoch."""
        found = self._callers.get(_digest(token))
        return found[0] if found is not None and now < found[1] else None

    def put(self, token: str, caller: Caller, until: float, now: float) -> None:
        """Remember it for a while, at most `until` it ends."""
        self._callers[_digest(token)] = caller, min(until, now + REMEMBERED)
        self._callers.move_to_end(_digest(token))
        if len(self._callers) > MAX_REMEMBERED:
            self._callers.popitem(last=False)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _usable(one: Any) -> jwt.PyJWK | None:
    if one.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(one)
    except jwt.PyJWTError:
        return None
    return key if key.algorithm_name in ALGORITHMS else None


def _bad(why: str) -> Unauthenticated:
    return Unauthenticated("BAD_CREDENTIAL", f"the token is not taken: {why}")
