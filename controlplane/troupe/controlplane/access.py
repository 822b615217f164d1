"""Who may call the control plane, and as which worker."""

from typing import Final

from troupe.chassis.access.policy import Table
from troupe.chassis.access.roles import Role, caller
from troupe.chassis.errors import PermissionDenied
from troupe.v1.control_plane_pb2 import DESCRIPTOR

_SERVICE: Final = DESCRIPTOR.services_by_name["ControlPlaneService"].full_name
_CHANGES: Final = frozenset({Role.ADMIN})
_READS: Final = frozenset({Role.OPERATOR, Role.ADMIN})

METHODS: Final[Table] = {
    f"{_SERVICE}/{method}": roles
    for method, roles in {
        "Sync": _CHANGES,
        "Rollback": _CHANGES,
        "Drain": _READS,
        "GetRevision": _READS,
        "ListRevisions": _READS,
        "WatchStatus": _READS | {Role.TELEMETRY},
        "Register": frozenset({Role.WORKER}),
    }.items()
}


def check_worker(worker_id: str) -> None:
    """Raise PermissionDenied OTHER_WORKER where the caller's credential is another worker's: it could take over the
    shards of that one."""
    who = caller()
    if Role.WORKER in who.roles and who.name != worker_id:
        raise PermissionDenied(
            "OTHER_WORKER",
            f"the credential is that of {who.name}, which may not register as {worker_id}; give the worker its own, or "
            f"start it with --worker-id {who.name}",
        )
