"""Which dead letters somebody asks for. Pure."""

from dataclasses import dataclass
from math import inf

from troupe.broker.addressing import DEFAULT, NAME, SessionKey, is_session
from troupe.broker.port import DeadLetter
from troupe.chassis.errors import InvalidArgument
from troupe.chassis.wire import seconds
from troupe.v1.dead_letter_pb2 import DeadLetterFilter


@dataclass(frozen=True, slots=True)
class Filter:
    """What is empty does not narrow the choice; what is given must all hold. Times are seconds since the epoch."""

    tenant: str
    """Whose letters. Those that name no session are the default tenant's: of whom they speak nobody can tell."""
    ids: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    namespace: str = ""
    agent: str = ""
    session: str = ""
    message_id: str = ""
    since: float = -inf
    before: float = inf

    @staticmethod
    def of(asked: DeadLetterFilter, tenant: str) -> "Filter":
        """The same as a message, whose fields were checked before."""
        return Filter(
            tenant,
            ids=frozenset(asked.letter_ids),
            reasons=frozenset(asked.reasons),
            namespace=asked.session.namespace,
            agent=asked.session.agent,
            session=asked.session.session,
            since=seconds(asked.since) if asked.HasField("since") else -inf,
            before=seconds(asked.before) if asked.HasField("before") else inf,
        )

    @property
    def narrows(self) -> bool:
        """Whether any letter of the tenant could be left out."""
        return self != Filter(self.tenant)

    def takes(self, letter: DeadLetter) -> bool:
        """Whether the letter is one of those."""
        if self.ids and letter.id not in self.ids:
            return False
        if self.message_id not in ("", letter.message_id):
            return False
        if self.reasons and letter.reason not in self.reasons:
            return False
        return self.since <= letter.last_failed < self.before and self._of_session(session_of(letter))

    def _of_session(self, key: SessionKey | None) -> bool:
        if key is None:
            return self.tenant == DEFAULT and not (self.namespace or self.agent or self.session)
        return (
            key.tenant == self.tenant
            and self.namespace in ("", key.namespace)
            and self.agent in ("", key.agent)
            and self.session in ("", key.session)
        )


def session_of(letter: DeadLetter) -> SessionKey | None:
    """The session that the letter's message was for; None where that could not be read."""
    try:
        key = SessionKey.parse(letter.session)
    except InvalidArgument:
        return None
    names = (key.tenant, key.namespace, key.agent)
    return key if all(map(NAME.fullmatch, names)) and is_session(key.session) else None
