"""Tokens of an issuer, as calls bring them. PyJWT takes long to import: only a server that has an issuer does."""

from typing import Any

from troupe.chassis.access.jwt_tokens import Issuer, Remembered, key_id, verified
from troupe.chassis.access.key_source import KeySource
from troupe.chassis.access.roles import Caller
from troupe.chassis.access.settings import AccessSettings
from troupe.chassis.clock import Clock
from troupe.chassis.rpc_errors import Unauthenticated


class IssuedTokens:
    """The issuer that the settings name, its keys, and what was checked lately."""

    def __init__(self, settings: AccessSettings, clock: Clock) -> None:
        self._issuer = Issuer(settings.jwt_issuer, settings.jwt_audience, settings.jwt_role_claim)
        self._keys = KeySource(settings.jwt_keys, clock)
        self._remembered = Remembered()

    async def caller(self, token: str, now: float) -> Caller:
        """Whose token it is; `now` is in seconds since the epoch. Raises Unauthenticated (BAD_CREDENTIAL,
        TOKEN_EXPIRED), and Unavailable where the issuer's keys cannot be had."""
        if (found := self._remembered.get(token, now)) is not None:
            return found
        key: Any = await self._keys.key(key_id(token))
        if key is None:
            raise Unauthenticated("BAD_CREDENTIAL", "the token is not taken: its issuer has no such key")
        found, until = verified(token, key, self._issuer)
        self._remembered.put(token, found, until, now)
        return found
