"""Which turns a selector means. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from troupe.broker.addressing import DEFAULT, MAX_SESSION, NAME, SessionKey, is_session
from troupe.chassis.errors import InvalidArgument
from troupe.dataplane.messages import check_attributes
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import TurnSelector
from troupe.v1.envelope_pb2 import SessionRef
from troupe.v1.turn_pb2 import Fate

FATES: Final = frozenset({turn_pb2.FATE_RUNNING, turn_pb2.FATE_WAITING, turn_pb2.FATE_PAUSED, turn_pb2.FATE_SCHEDULED})
"""Those of messages that are not settled and that somebody knows."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is empty does not narrow the choice; what is given must all hold."""

    tenant: str
    namespace: str = ""
    agent: str = ""
    session: str = ""
    fates: frozenset[Fate.ValueType] = frozenset()
    attributes: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(asked: TurnSelector, tenant: str) -> "Selection":
        """The same as a message. Raises InvalidArgument."""
        ref = asked.session
        for part in ("namespace", "agent"):
            if (value := getattr(ref, part)) and not NAME.fullmatch(value):
                raise InvalidArgument("BAD_SELECTOR", f"selector.session.{part}: must match {NAME.pattern}")
        if ref.session and not is_session(ref.session):
            raise InvalidArgument(
                "BAD_SELECTOR",
                f"selector.session.session: must be at most {MAX_SESSION} bytes without `/` and control characters",
            )
        if not FATES.issuperset(asked.fates):
            raise InvalidArgument(
                "BAD_SELECTOR", "selector.fates: verbs are for what is RUNNING, WAITING, PAUSED or SCHEDULED"
            )
        check_attributes("selector.attributes", asked.attributes)
        return Selection(tenant, ref.namespace, ref.agent, ref.session, frozenset(asked.fates), dict(asked.attributes))

    def selector(self) -> TurnSelector:
        """As a worker asks another. The tenant is named where it is not the default one."""
        tenant = self.tenant if self.tenant != DEFAULT else ""
        ref = SessionRef(tenant=tenant, namespace=self.namespace, agent=self.agent, session=self.session)
        return TurnSelector(session=ref, fates=sorted(self.fates), attributes=self.attributes)

    @property
    def prefix(self) -> str:
        """What the paths of all its sessions begin with."""
        parts = [self.tenant]
        for part in (self.namespace, self.agent):
            if not part:
                return "/".join([*parts, ""])
            parts.append(part)
        return "/".join([*parts, self.session])

    @property
    def key(self) -> SessionKey | None:
        """The one session that it is about, where it names one whole."""
        whole = self.namespace and self.agent and self.session
        return SessionKey(self.tenant, self.namespace, self.agent, self.session) if whole else None

    def of_session(self, key: SessionKey) -> bool:
        """Whether the session's turns may be among them."""
        return (
            key.tenant == self.tenant
            and self.namespace in ("", key.namespace)
            and self.agent in ("", key.agent)
            and self.session in ("", key.session)
        )

    def takes(self, key: SessionKey, stands: Fate.ValueType, attributes: Mapping[str, str]) -> bool:
        """Whether a message of the session that stands so is one of them."""
        if not self.of_session(key) or (self.fates and stands not in self.fates):
            return False
        return all(attributes.get(name) == value for name, value in self.attributes.items())
