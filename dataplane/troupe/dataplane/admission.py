"""Which messages a gateway takes: none for a mailbox or a session in which too many wait already. Pure.

What waits is sampled beside, at most once a second for what is being sent to, and a message is judged by the last
sample: nothing on its way waits for an answer. So a limit can be passed by what comes within a second or two.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from troupe.broker.addressing import SessionKey
from troupe.chassis.errors import ResourceExhausted
from troupe.dataplane.state.session import Backlog

SAMPLED_FOR: Final = 1.0
"""Seconds after which another sample is wanted."""
GOOD_FOR: Final = 5.0
"""Seconds after which a sample says nothing any more."""
MAX_SESSIONS: Final = 10_000
"""Sessions whose backlog is remembered, those that were last sent to."""
RETRY_AFTER: Final = 1.0
TROUBLE_RETRY_AFTER: Final = 5.0
"""Seconds: a worker in trouble gets over it, or loses its shards, no sooner."""
_NEWEST: Final = 0.05
"""Weight of one more message in the mean size."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What may wait. Bytes are of envelopes."""

    mailbox_messages: int = 1_000_000
    mailbox_bytes: int = 1 << 30
    session_messages: int = 10_000
    session_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be sampled."""

    shards: tuple[int, ...]
    sessions: tuple[SessionKey, ...]


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    waiting: Backlog
    queued: int = 0


class Admission:
    """One gateway's. Times are seconds of one monotonic clock."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._mean = 0.0
        self._shards: OrderedDict[int, _Sample] = OrderedDict()
        self._sessions: OrderedDict[SessionKey, _Sample] = OrderedDict()
        self._wanted_shards: set[int] = set()
        self._wanted_sessions: set[SessionKey] = set()

    def check(self, key: SessionKey, shard: int, here: int | None, now: float) -> None:
        """Raise ResourceExhausted where a message for the session is not to be taken now. `here`: messages that wait
        for it, where it is in this worker's memory."""
        limits = self._limits
        if here is not None and here >= limits.session_messages:
            raise _session_full(key, f"{here:,} messages wait for it")
        sample = self._shards.get(shard)
        if sample is None or now - sample.at >= SAMPLED_FOR:
            self._wanted_shards.add(shard)
        if sample is None or now - sample.at >= GOOD_FOR:
            return
        waiting = sample.waiting
        messages = sample.queued + waiting.messages
        if messages >= limits.mailbox_messages:
            raise _mailbox_full(f"{messages:,} messages wait in mailbox {shard}")
        size = sample.queued * self._mean + waiting.bytes
        if size >= limits.mailbox_bytes:
            raise _mailbox_full(f"about {size / 2**20:,.0f} MiB wait in mailbox {shard}")
        if waiting.messages >= limits.session_messages or waiting.bytes >= limits.session_bytes:
            self._check_session(key, now)

    def published(self, size: int) -> None:
        """A message of so many bytes is sent."""
        self._mean += (size - self._mean) * (_NEWEST if self._mean else 1.0)

    @property
    def wants(self) -> bool:
        """Whether something is to be sampled."""
        return bool(self._wanted_shards or self._wanted_sessions)

    def take_wanted(self) -> Wanted:
        """What is to be sampled now: everything that was sent to and has no sample, or an old one."""
        wanted = Wanted(tuple(self._wanted_shards), tuple(self._wanted_sessions))
        self._wanted_shards.clear()
        self._wanted_sessions.clear()
        return wanted

    def sampled(self, shard: int, queued: int, waiting: Backlog, now: float) -> None:
        """The shard's queue holds so many messages, and its inboxes this."""
        self._shards[shard] = _Sample(now, waiting, queued)

    def sampled_session(self, key: SessionKey, waiting: Backlog, now: float) -> None:
        """The session's inbox holds this."""
        self._sessions[key] = _Sample(now, waiting)
        self._sessions.move_to_end(key)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)

    def _check_session(self, key: SessionKey, now: float) -> None:
        """Only where the whole shard has as much as one session may: then it may be this one's."""
        sample = self._sessions.get(key)
        if (sample is None or now - sample.at >= SAMPLED_FOR) and len(self._wanted_sessions) < MAX_SESSIONS:
            self._wanted_sessions.add(key)
        if sample is None or now - sample.at >= GOOD_FOR:
            return
        if sample.waiting.messages >= self._limits.session_messages:
            raise _session_full(key, f"{sample.waiting.messages:,} messages wait for it")
        if sample.waiting.bytes >= self._limits.session_bytes:
            raise _session_full(key, f"{sample.waiting.bytes / 2**20:,.0f} MiB wait for it")


def blocked() -> ResourceExhausted:
    """The broker takes nothing now."""
    return _mailbox_full("the broker takes no messages now: it is short of memory or disk")


def in_trouble(key: SessionKey, cause: str) -> ResourceExhausted:
    """The session is new, and the worker that would have it does not get on."""
    return ResourceExhausted(
        "WORKER_DEGRADED",
        f"session {key} is new, and its worker takes none now: {cause}; the message was not sent, try later",
        retry_after=TROUBLE_RETRY_AFTER,
    )


def _mailbox_full(why: str) -> ResourceExhausted:
    return ResourceExhausted("MAILBOX_FULL", f"{why}; the message was not sent, try later", retry_after=RETRY_AFTER)


def _session_full(key: SessionKey, why: str) -> ResourceExhausted:
    return ResourceExhausted(
        "SESSION_FULL", f"session {key} is full: {why}; the message was not sent, try later", retry_after=RETRY_AFTER
    )
