"""The events of turns, from whoever runs them to whoever listens on this worker.

A message's events stand in one log while anybody runs or follows it; followers read it at their own pace, so a slow
one slows nobody and needs no queue of its own. Text that a follower is behind with reaches it as one event.

A session can move to another worker, and its messages can end there. Who follows is then stirred: the log has nothing
more to say for now, and the follower looks in the store, and for the owner, before it comes back.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Final

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.chassis.errors import ResourceExhausted
from troupe.dataplane.actors.coalescing import COALESCE
from troupe.v1.agent_pb2 import EventPosition
from troupe.v1.turn_pb2 import Event

FEED_LIMIT = 4096
"""Events that a session's follower may be behind before it is cut."""
LAST: Final = frozenset({"completed", "failed"})
"""The kinds of event that end a message."""


class Hub:
    """All logs of one worker."""

    def __init__(self) -> None:
        self.coalesce = COALESCE[0]
        """Seconds between two token events of one attempt, as the worker is now."""
        self._logs: dict[tuple[SessionKey, str], MessageLog] = {}
        self._feeds: dict[SessionKey, set[Feed]] = {}

    def log(self, key: SessionKey, message_id: str, *, runs: bool = False) -> "Use":
        """The message's log, kept while this is entered, by any number of users. `runs`: the message's turn runs
        while it is entered; followers are stirred when that ends without the message's end."""
        return Use(self, (key, message_id), runs)

    def listening(self, key: SessionKey, message_id: str) -> bool:
        """Whether anybody has the message's log open, or follows the session."""
        return (key, message_id) in self._logs or key in self._feeds

    def stir(self, concerned: Callable[[SessionKey], bool] = lambda _: True) -> None:
        """Stir those who follow these sessions, or messages of theirs."""
        self.stir_messages(concerned)
        for key, feeds in self._feeds.items():
            if concerned(key):
                for feed in feeds:
                    feed.stir()

    def stir_messages(self, concerned: Callable[[SessionKey], bool]) -> None:
        """Stir those who follow messages of these sessions: some may have been settled where they waited."""
        for (key, _), log in self._logs.items():
            if concerned(key):
                log.stir()

    @contextlib.contextmanager
    def feed(self, key: SessionKey) -> Iterator["Feed"]:
        """All events of a session from now on."""
        feed = Feed()
        self._feeds.setdefault(key, set()).add(feed)
        try:
            yield feed
        finally:
            self._feeds[key].discard(feed)
            if not self._feeds[key]:
                del self._feeds[key]

    def _feed(self, key: SessionKey, event: Event) -> None:
        for feed in self._feeds.get(key, ()):
            feed.push(event)


class Use:
    """See `Hub.log`."""

    __slots__ = ("_hub", "_log", "_name", "_runs")

    def __init__(self, hub: Hub, name: tuple[SessionKey, str], runs: bool) -> None:
        self._hub, self._name, self._runs = hub, name, runs

    def __enter__(self) -> "MessageLog":
        logs, name = self._hub._logs, self._name
        log = logs.get(name)
        if log is None:
            log = logs[name] = MessageLog(self._hub, name[0])
        log.users += 1
        log.running += self._runs
        self._log = log
        return log

    def __exit__(self, *_: object) -> None:
        log = self._log
        log.users -= 1
        log.running -= self._runs
        if self._runs and not log.ended:
            log.stir()
        if log.users == 0:
            self._hub._logs.pop(self._name, None)


class MessageLog:
    """The events of one message that still matter: those of attempts that were sealed are dropped, but for what stands
    since a wait: an attempt that ended in one, and all before it."""

    def __init__(self, hub: Hub, key: SessionKey) -> None:
        self.users = self.running = 0
        self.ended = False
        """The message's last event is here."""
        self.stirs = 0
        """How often its followers were stirred."""
        self._hub, self._key = hub, key
        self._events: list[tuple[Event, Number | None, bytes]] = []
        self._dropped = 0
        self._news: asyncio.Event | None = None
        """What followers wait for, where any do."""
        self._waiters: set[asyncio.Future[None]] = set()
        """Of those who wait for the end alone."""

    @property
    def coalesce(self) -> float:
        """See `Hub`."""
        return self._hub.coalesce

    def append(self, event: Event, only: Number | None = None, digest: bytes = b"") -> None:
        """`only`: for the sender of this copy of the message and nobody else. `digest`: of the payload that it is
        about, where that is known."""
        if event.HasField("sealed"):
            stands = next((at for at in range(len(self._events), 0, -1) if self._suspends(at - 1)), 0)
            self._dropped += len(self._events) - stands
            del self._events[stands:]
        self._events.append((event, only, digest))
        self._tell()
        last = event.WhichOneof("kind") in LAST
        if last:
            self._wake()
        if only is None:
            self.ended = self.ended or last
            self._hub._feed(self._key, event)

    def stir(self) -> None:
        """Let everybody's `follow` and `end` end, once they have given what is here."""
        self.stirs += 1
        self._tell()
        self._wake()

    async def end(self, number: Number | None, digest: bytes, within: float) -> Event | None:
        """The message's last event, for the sender of this copy and payload, once it is here; None when the follower
        is stirred before, or after `within` seconds."""
        loop, stirs = asyncio.get_running_loop(), self.stirs
        until = loop.time() + within
        while (end := self._end(number, digest)) is None and self.stirs == stirs and loop.time() < until:
            waiter = loop.create_future()
            self._waiters.add(waiter)
            alarm = loop.call_at(until, _set, waiter)
            try:
                await waiter
            finally:
                alarm.cancel()
                self._waiters.discard(waiter)
        return end

    async def follow(
        self,
        after: EventPosition | None = None,
        number: Number | None = None,
        digest: bytes = b"",
        stirs: int | None = None,
    ) -> AsyncGenerator[Event, None]:
        """The events beyond `after`, those to come included, until the message's last one, or until the follower is
        stirred. `number` is the copy that the follower sent, `digest` its payload's: events of another payload are not
        the follower's to see. `stirs` are those that the follower has answered; by default, all before."""
        beyond = (after.epoch, after.attempt, after.sequence) if after else (0, 0, 0)
        cursor, stirs = 0, self.stirs if stirs is None else stirs
        while True:
            news = self._news = self._news or asyncio.Event()
            fresh = self._events[max(0, cursor - self._dropped) :]
            cursor = self._dropped + len(self._events)
            for event in _coalesced(
                event
                for event, only, about in fresh
                if _is_for(number, digest, only, about)
                and ((event.epoch, event.attempt, event.sequence) > beyond or event.WhichOneof("kind") in LAST)
            ):
                yield event
                if event.WhichOneof("kind") in LAST:
                    return
                # What stands may have moved up behind what was dropped.
                beyond = max(beyond, (event.epoch, event.attempt, event.sequence))
            if self.stirs != stirs:
                return
            await news.wait()

    def _suspends(self, index: int) -> bool:
        return self._events[index][0].HasField("suspended")

    def _end(self, number: Number | None, digest: bytes) -> Event | None:
        for event, only, about in reversed(self._events):
            if event.WhichOneof("kind") in LAST and _is_for(number, digest, only, about):
                return event
        return None

    def _tell(self) -> None:
        news, self._news = self._news, None
        if news is not None:
            news.set()

    def _wake(self) -> None:
        for waiter in self._waiters:
            _set(waiter)


class Feed:
    """What one follower of a session has not read yet."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._news = asyncio.Event()
        self._cut = self._stirred = False

    def push(self, event: Event) -> None:
        if len(self._events) >= FEED_LIMIT:
            self._cut = True
        else:
            self._events.append(event)
        self._news.set()

    def stir(self) -> None:
        """Let `follow` end, once it has given what is here."""
        self._stirred = True
        self._news.set()

    async def follow(self) -> AsyncGenerator[Event, None]:
        """Events as they come, until the follower is stirred. Raises ResourceExhausted once it is FEED_LIMIT
        behind."""
        while True:
            await self._news.wait()
            self._news.clear()
            fresh, self._events = self._events, deque()
            for event in _coalesced(iter(fresh)):
                yield event
            if self._cut:
                raise ResourceExhausted(
                    "TOO_SLOW", f"the stream was {FEED_LIMIT} events behind and was cut; subscribe again", retry_after=1
                )
            if self._stirred:
                return


def _is_for(number: Number | None, digest: bytes, only: Number | None, about: bytes) -> bool:
    """Whether an event is for the sender of this copy: one for the copy `only`, else one about its payload."""
    return only == number if only else about in (b"", digest) or not digest


def _set(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _coalesced(events: Iterator[Event]) -> Iterator[Event]:
    """The same, with neighbouring token deltas of one attempt joined."""
    held: Event | None = None
    for event in events:
        if held is not None:
            if event.HasField("token_delta") and (event.message_id, event.epoch, event.attempt) == (
                held.message_id,
                held.epoch,
                held.attempt,
            ):
                joined = Event()
                joined.CopyFrom(event)
                joined.token_delta.text = held.token_delta.text + event.token_delta.text
                held = joined
                continue
            yield held
            held = None
        if event.HasField("token_delta"):
            held = event
        else:
            yield event
    if held is not None:
        yield held
