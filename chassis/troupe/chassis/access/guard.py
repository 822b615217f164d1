"""Asks every call of a server who makes it and whether they may."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import structlog

from troupe.chassis import metrics
from troupe.chassis.access import bearer, identity, policy
from troupe.chassis.access.policy import INSPECTION, OPEN, Table
from troupe.chassis.access.rate import Bucket, Rates
from troupe.chassis.access.roles import ANYBODY, Caller
from troupe.chassis.access.settings import AccessSettings
from troupe.chassis.access.static_tokens import TokenFile
from troupe.chassis.address import Address
from troupe.chassis.clock import Clock, SystemClock
from troupe.chassis.errors import PermissionDenied, ResourceExhausted, TroupeError
from troupe.chassis.rpc_errors import Unauthenticated
from troupe.chassis.rpc_running import Context

if TYPE_CHECKING:
    from troupe.chassis.access.issued_tokens import IssuedTokens

log = structlog.get_logger()

DENIED_LINES: Final = 10.0
"""Denied calls logged in a second: strangers make them as fast as they like,"""
DENIED_LINES_AT_ONCE: Final = 100.0
"""and so many at once. All are counted, and the next line says how many had none."""


class Guard:
    """The credentials, roles and rates of one server."""

    def __init__(self, settings: AccessSettings, table: Table, clock: Clock | None = None) -> None:
        """`table` are the roles of the server's own services. Raises InvalidArgument BAD_TOKENS."""
        self._table: Mapping[str, frozenset[Any]] = {**INSPECTION, **table}
        self._clock = clock or SystemClock()
        self._tokens = TokenFile(settings.tokens) if settings.tokens is not None else None
        self._issued = _issued(settings, self._clock) if settings.jwt_keys else None
        self._rates = Rates(settings.call_rate, settings.call_burst)
        self._lines, self._untold = Bucket(DENIED_LINES_AT_ONCE, self._clock.monotonic()), 0

    async def admit(self, method: str, context: Context) -> Caller:
        """Who makes the call, once they may. Raises Unauthenticated, PermissionDenied (with `missing_role` in its
        metadata), ResourceExhausted TOO_MANY_CALLS, and Unavailable where an issuer's keys cannot be had."""
        if method in OPEN:
            return ANYBODY
        caller: Caller | None = None
        try:
            caller = await self._known(context)
            policy.check(self._table, method, caller)
            self._check_rate(caller)
        except TroupeError as error:
            self._denied(method, caller, error, str(context.peer()))
            raise
        return caller

    async def _known(self, context: Context) -> Caller:
        metadata: Any = context.invocation_metadata() or ()
        token = bearer.token_of(metadata)
        if token is not None:
            # A token that is sent counts alone: what it does not allow, no certificate beside it shall.
            return await self._of_token(token)
        peer: Any = context.auth_context()
        found = identity.of(peer)
        if found is None:
            raise Unauthenticated(
                "NO_CREDENTIAL",
                "the call carries no credential: send a bearer token (TROUPE_TOKEN), or be a process of the fleet "
                "with its certificate",
            )
        return found

    async def _of_token(self, token: str) -> Caller:
        now = self._clock.now()
        if self._tokens is not None and (found := self._tokens.caller(token, now)) is not None:
            return found
        if self._issued is None:
            raise Unauthenticated("BAD_CREDENTIAL", "the token is not known here; ask who runs the fleet for one")
        return await self._issued.caller(token, now)

    def _check_rate(self, caller: Caller) -> None:
        if caller.process:
            return
        if wait := self._rates.take(f"{caller.tenant}/{caller.name}", self._clock.monotonic()):
            raise ResourceExhausted(
                "TOO_MANY_CALLS", f"{caller.name} calls too often; call again in {wait:.2f} s", retry_after=wait
            )

    def _denied(self, method: str, caller: Caller | None, error: TroupeError, peer: str) -> None:
        role = error.metadata.get("missing_role", "") if isinstance(error, PermissionDenied) else ""
        metrics.RPC_DENIED.labels(method, role, error.reason).inc()
        self._lines, wait = self._lines.take(self._clock.monotonic(), DENIED_LINES, DENIED_LINES_AT_ONCE)
        if wait:
            self._untold += 1
            return
        log.warning(
            "call denied",
            method=method,
            caller=caller.name if caller is not None else "",
            missing_role=role,
            reason=error.reason,
            peer=peer,
            untold=self._untold,
        )
        self._untold = 0


def guarding(settings: AccessSettings, table: Table) -> Guard | None:
    """The guard that the settings ask for; None where everybody may do everything, which is logged where others can
    reach it. Raises InvalidArgument BAD_TOKENS."""
    if settings.asks:
        return Guard(settings, table)
    if not Address.parse(settings.listen).loopback:
        log.warning(
            "calls need no credential, all may do everything: give --tls-ca, --tokens or --jwt-issuer to change that",
            listen=settings.listen,
        )
    return None


def _issued(settings: AccessSettings, clock: Clock) -> "IssuedTokens":
    from troupe.chassis.access.issued_tokens import IssuedTokens

    return IssuedTokens(settings, clock)
