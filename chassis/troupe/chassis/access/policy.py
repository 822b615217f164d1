"""Which roles may call which method: a table, and the one question that it answers. Pure.

A method that the table does not name is denied to everybody.
"""

from collections.abc import Mapping
from typing import Final

from troupe.chassis.access.roles import Caller, Role
from troupe.chassis.errors import PermissionDenied

Table = Mapping[str, frozenset[Role]]
"""The roles that may call each method, by its full name: `troupe.v1.AgentService/Send`."""

OPEN: Final = frozenset(
    {
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/List",
        "grpc.health.v1.Health/Watch",
    }
)
"""Methods that need no credential: load balancers and probes have none."""

_READERS: Final = frozenset({Role.OPERATOR, Role.ADMIN})

INSPECTION: Final[Table] = {
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _READERS,
    **{
        f"grpc.channelz.v1.Channelz/{method}": _READERS
        for method in (
            "GetTopChannels",
            "GetServers",
            "GetServer",
            "GetServerSockets",
            "GetChannel",
            "GetSubchannel",
            "GetSocket",
        )
    },
}
"""What every server has beside its own services."""


def check(table: Table, method: str, caller: Caller) -> None:
    """Raise PermissionDenied (ROLE_MISSING, METHOD_CLOSED) unless the caller has one of the method's roles."""
    allowed = table.get(method, frozenset())
    if not allowed:
        raise PermissionDenied("METHOD_CLOSED", f"{method} is open to nobody: it is in no table of roles")
    if allowed.isdisjoint(caller.roles):
        missing = missing_role(allowed)
        has = ", ".join(sorted(caller.roles)) or "none"
        raise PermissionDenied(
            "ROLE_MISSING",
            f"{method} needs the role {missing}; {caller.name} has {has}",
            metadata={"missing_role": missing},
        )


def missing_role(allowed: frozenset[Role]) -> str:
    """The one of several roles to ask for: the one that allows least beside."""
    return next((role for role in _LEAST_FIRST if role in allowed), "")


_LEAST_FIRST: Final = (Role.CLIENT, Role.OPERATOR, Role.ADMIN, Role.TELEMETRY, Role.WORKER, Role.CONTROLPLANE)
