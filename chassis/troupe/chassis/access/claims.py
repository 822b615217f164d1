"""A caller from the claims of a verified token, and from an entry of the file of tokens. Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from troupe.chassis.access.roles import FLEET, Caller, Role

NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""What a tenant matches as a whole."""
MAX_NAME: Final = 256
"""Characters of a caller's name."""
MAX_LABELS: Final = 16

_ROLES: Final = {role.value: role for role in Role}


def of_claims(claims: Mapping[str, Any], role_claim: str) -> Caller:
    """`sub` is the name, `tenant` the tenant, `role_claim` a role or a list of them, `agents` an object of labels.

    Roles that are none of the fleet's are passed over, since they may mean something elsewhere; those of the fleet's
    own processes too, which no user has. Raises ValueError saying which claim is wrong."""
    given = claims.get(role_claim, [])
    roles = given.split() if isinstance(given, str) else given
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise ValueError(f"claim {role_claim} is no list of roles")
    known = frozenset(_ROLES[role] for role in roles if role in _ROLES) - FLEET
    return Caller(_name(claims.get("sub"), "claim sub"), known, _tenant(claims.get("tenant")), _labels(claims))


def of_entry(entry: Mapping[str, Any]) -> Caller:
    """`name`, `roles`, and where given `tenant` and `agents`. Raises ValueError saying what is wrong."""
    roles = entry.get("roles")
    if not isinstance(roles, list) or not roles or not all(isinstance(role, str) and role in _ROLES for role in roles):
        raise ValueError(f"roles must be a list of {', '.join(Role)}")
    tenant = _tenant(entry["tenant"]) if "tenant" in entry else Caller("", frozenset()).tenant
    return Caller(_name(entry.get("name"), "name"), frozenset(map(Role, roles)), tenant, _labels(entry))


def _name(value: Any, what: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or not value.isprintable():
        raise ValueError(f"{what} must be printable text of 1 to {MAX_NAME} characters")
    return value


def _tenant(value: Any) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ValueError("tenant must be a name of a-z, 0-9 and -")
    return value


def _labels(given: Mapping[str, Any]) -> Mapping[str, str]:
    labels = given.get("agents", {})
    if not isinstance(labels, dict) or len(labels) > MAX_LABELS or not _all_text(labels.values()):
        raise ValueError(f"agents must be at most {MAX_LABELS} labels, each with the text that it must have")
    return dict(labels)


def _all_text(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
