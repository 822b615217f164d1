"""Who may call a worker, and which sessions and agents are theirs."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from troupe.broker.addressing import SessionKey
from troupe.chassis.access.policy import Table
from troupe.chassis.access.roles import ANYBODY, Role, caller
from troupe.chassis.errors import PermissionDenied
from troupe.dataplane.peers import RELAYED
from troupe.v1 import agent_pb2, data_plane_pb2, dead_letter_pb2, promise_pb2
from troupe.v1.envelope_pb2 import SessionRef

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

_TALKS: Final = frozenset({Role.CLIENT})
_ASKS: Final = frozenset({Role.CLIENT, Role.OPERATOR})
_READS: Final = frozenset({Role.CLIENT, Role.OPERATOR, Role.WORKER})
_PASSED_ON: Final = frozenset({Role.CLIENT, Role.WORKER})
_CONTROL_PLANE: Final = frozenset({Role.CONTROLPLANE})

_AGENT: Final = {
    "Send": _TALKS,
    "Converse": _TALKS,
    "Subscribe": _READS,
    "GetMessage": _READS,
    "GetSession": _READS,
    "ListSessions": _ASKS,
    "ControlTurns": _PASSED_ON,
    "DeleteSession": _PASSED_ON,
}
_PROMISE: Final = {
    # By its token whoever may call; by its name the operator, and those whom the promise names.
    "Resolve": _ASKS,
    "Reject": _ASKS,
    "GetPromise": _READS,
    "ListPromises": _ASKS,
}
_DEAD_LETTER: Final = {
    "ListDeadLetters": frozenset({Role.OPERATOR, Role.ADMIN}),
    "GetDeadLetter": frozenset({Role.OPERATOR, Role.ADMIN}),
    "Redrive": frozenset({Role.ADMIN}),
    "Purge": frozenset({Role.ADMIN}),
}
_DATA_PLANE: Final = {"Apply": _CONTROL_PLANE, "Place": _CONTROL_PLANE, "Report": _CONTROL_PLANE}

METHODS: Final[Table] = {
    f"{file.services_by_name[service].full_name}/{method}": roles
    for file, service, rows in (
        (agent_pb2.DESCRIPTOR, "AgentService", _AGENT),
        (promise_pb2.DESCRIPTOR, "PromiseService", _PROMISE),
        (dead_letter_pb2.DESCRIPTOR, "DeadLetterService", _DEAD_LETTER),
        (data_plane_pb2.DESCRIPTOR, "DataPlaneService", _DATA_PLANE),
    )
    for method, roles in rows.items()
}

Labels = Callable[[str, str], Mapping[str, str]]
"""The labels of the agent with this namespace and name; none where there is no such agent."""


def tenant() -> str:
    """Whose sessions and dead letters the caller sees. It comes from the credential alone."""
    return caller().tenant


def session(ref: SessionRef, labels: Labels) -> SessionKey:
    """The caller's session of that name. Raises InvalidArgument for a bad name, PermissionDenied (TENANT_SET) where
    somebody but a worker names a tenant, and (OTHER_AGENT) where the caller's labels do not reach the agent."""
    who = caller()
    if ref.tenant and Role.WORKER not in who.roles:
        raise tenant_set("session.tenant")
    key = SessionKey.of(ref, "" if Role.WORKER in who.roles else who.tenant)
    if not reaches(key.namespace, key.agent, labels):
        raise PermissionDenied(
            "OTHER_AGENT", f"{who.name} may not reach agent {key.agent}: it lacks labels that the credential asks for"
        )
    return key


def reaches(namespace: str, agent: str, labels: Labels) -> bool:
    """Whether the agent is one that the caller may talk to and hear of."""
    who = caller()
    return not who.agents or who.reaches(labels(namespace, agent))


def passes_on() -> bool:
    """Whether the caller may speak for another: a worker, or anybody where no credentials are asked for."""
    who = caller()
    return who is ANYBODY or Role.WORKER in who.roles


def relayed(context: "ServicerContext[Any, Any]") -> bool:
    """Whether another worker passes the call on."""
    metadata: Any = context.invocation_metadata()
    return passes_on() and any(name == RELAYED[0] for name, _ in metadata or ())


def tenant_set(field: str) -> PermissionDenied:
    """What a caller gets that names a tenant."""
    return PermissionDenied("TENANT_SET", f"{field}: only workers name a tenant (role worker missing); leave it out")
