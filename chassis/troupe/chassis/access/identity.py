"""What a client certificate says: which of the fleet's processes shows it. Pure.

A URI among its subject alternative names says so: `spiffe://DOMAIN/troupe/worker/WORKER_ID` or
`spiffe://DOMAIN/troupe/controlplane`. The authority that signed it decides who gets one; the domain is not looked at.
A certificate without such a name opens the connection and gives no role.
"""

import re
from collections.abc import Iterable, Mapping

from troupe.chassis.access.roles import Caller, Role

PROPERTY = "peer_uri"
"""Under which gRPC has the URIs of a certificate that it has verified; names of other types are elsewhere."""

_URI = re.compile(
    rb"spiffe://[a-z0-9._-]{1,255}/troupe/"
    rb"(?:worker/(?P<worker>[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)|(?P<controlplane>controlplane))"
)


def of(peer: Mapping[str, Iterable[bytes]]) -> Caller | None:
    """The process behind a connection, by gRPC's properties of it; None where the certificate names none, or two."""
    named = {found for uri in peer.get(PROPERTY, ()) if (found := _process(uri)) is not None}
    if len(named) != 1:
        return None
    [(role, name)] = named
    return Caller(name, frozenset({role}))


def worker_uri(worker_id: str, domain: str) -> str:
    """The name of a worker in its certificate."""
    return f"spiffe://{domain}/troupe/worker/{worker_id}"


def controlplane_uri(domain: str) -> str:
    """The name of the control plane in its certificate."""
    return f"spiffe://{domain}/troupe/controlplane"


def _process(uri: bytes) -> tuple[Role, str] | None:
    found = _URI.fullmatch(uri)
    if found is None:
        return None
    if found["worker"]:
        return Role.WORKER, found["worker"].decode()
    return Role.CONTROLPLANE, "controlplane"
