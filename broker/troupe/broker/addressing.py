"""Who a message is for, and which mailbox that is. Pure."""

import functools
import hashlib
import re
from dataclasses import dataclass, field

from troupe.chassis.errors import InvalidArgument, Violation
from troupe.v1.envelope_pb2 import SessionRef

NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""What names of resources, namespaces and tenants match as a whole."""

SESSION = re.compile(r"[^/\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
"""What names of sessions match as a whole: text without `/` and control characters. Not `str.isprintable`, whose
answer depends on the version of Python, so that two workers could differ."""

MAX_SESSION = 128
"""Bytes of a session's name in UTF-8."""

DEFAULT = "default"
"""The namespace, and the tenant, of those that name none."""

REMEMBERED = 65_536
"""Keys that are kept ready: a message's way asks for its key several times."""


@dataclass(frozen=True, slots=True)
class SessionKey:
    """One session, whole: what is hashed and stored. Compares by all four parts."""

    tenant: str
    namespace: str
    agent: str
    session: str
    path: str = field(init=False, repr=False, compare=False)
    """The parts joined by `/`: no part but the last may hold what a name may not, so no two keys share a path."""
    point: int = field(init=False, repr=False, compare=False)
    """Where it lies among all sessions: the first four bytes of SHA-256 of the path."""

    def __post_init__(self) -> None:
        path = f"{self.tenant}/{self.namespace}/{self.agent}/{self.session}"
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "point", int.from_bytes(hashlib.sha256(path.encode()).digest()[:4]))

    def __hash__(self) -> int:
        return hash(self.path)

    def __str__(self) -> str:
        """For people: tenant left out, namespace too where it is the default."""
        name = f"{self.agent}/{self.session}"
        return name if self.namespace == DEFAULT else f"{self.namespace}/{name}"

    def shard(self, count: int) -> int:
        """The shard, from 0 to `count` - 1: the point, scaled."""
        return self.point * count >> 32

    def ref(self) -> SessionRef:
        return SessionRef(tenant=self.tenant, namespace=self.namespace, agent=self.agent, session=self.session)

    @classmethod
    def parse(cls, path: str) -> "SessionKey":
        """The key with this path. Raises InvalidArgument when it is the path of none."""
        parts = path.split("/")
        if len(parts) != 4:
            raise InvalidArgument("BAD_SESSION", f"{path!r} is no tenant/namespace/agent/session")
        return cls(*parts)

    @classmethod
    def of(cls, ref: SessionRef, tenant: str = "") -> "SessionKey":
        """The key that a reference names, for `tenant` where given. Raises InvalidArgument naming the bad part."""
        return _checked(tenant or ref.tenant or DEFAULT, ref.namespace or DEFAULT, ref.agent, ref.session)


@functools.lru_cache(REMEMBERED)
def _checked(tenant: str, namespace: str, agent: str, session: str) -> SessionKey:
    """Raises InvalidArgument naming the bad part."""
    wrong = [
        Violation(f"session.{part}", f"must match {NAME.pattern}")
        for part, value in (("tenant", tenant), ("namespace", namespace), ("agent", agent))
        if not NAME.fullmatch(value)
    ]
    if not is_session(session):
        wrong.append(
            Violation("session.session", f"must be 1 to {MAX_SESSION} bytes without `/` and control characters")
        )
    if wrong:
        key = SessionKey(tenant, namespace, agent, session)
        raise InvalidArgument(
            "BAD_SESSION", f"{wrong[0].field} {wrong[0].description}, got {str(key)!r}", violations=wrong
        )
    return SessionKey(tenant, namespace, agent, session)


def is_session(name: str) -> bool:
    """Whether `name` can name a session."""
    return SESSION.fullmatch(name) is not None and len(name.encode()) <= MAX_SESSION


def mailbox(shard: int) -> str:
    """Name of a shard's mailbox queue."""
    return f"troupe.v1.mailbox.{shard}"


def task_queue(pool: str) -> str:
    """Name of a pool's task queue."""
    return f"troupe.v1.task.{pool}"
