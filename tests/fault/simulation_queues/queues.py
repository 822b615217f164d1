"""The server's quorum queues, and the log through which all that must outlive a crash is written."""

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from fault.simulation_queues.history import History
from pika import spec

EPOCH = 1_700_000_000.0
"""When virtual time begins, seconds since the epoch."""
COMMIT = (0.0005, 0.004)
"""Seconds, from and to, that a write takes."""
AT_ONCE = 32
"""Messages that an at-least-once queue has on their way to their dead-letter exchange."""
STUCK = 1_000.0
"""Seconds after which it tries again to send one that found no queue, in place of 180: by then a seed is over."""

_serials = itertools.count(1)


@dataclass(slots=True)
class Message:
    """One copy of a message, in one queue."""

    exchange: str
    key: str
    body: bytes
    properties: spec.BasicProperties
    expires: float = float("inf")
    returns: int = 0
    """How often it was given back: x-delivery-count."""
    serial: int = field(default_factory=lambda: next(_serials))

    @property
    def headers(self) -> dict[str, Any]:
        return dict(self.properties.headers or {})


class Log:
    """Writes in order. A crash keeps what is written, and as much more as it happens to."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._entries: deque[tuple[float, Callable[[], None]]] = deque()
        self._watched: tuple[int, Callable[[], None]] | None = None

    @property
    def empty(self) -> bool:
        return not self._entries

    def append(self, write: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        last = self._entries[-1][0] if self._entries else 0.0
        self._entries.append((at := max(last, loop.time() + self._dice.uniform(*COMMIT)), write))
        loop.call_at(at, self._commit)

    def after(self, writes: int, then: Callable[[], None]) -> None:
        """Call it once so many more are written."""
        self._watched = (writes, then)

    def crash(self) -> None:
        kept = self._dice.randint(0, len(self._entries))
        entries, self._entries = list(self._entries), deque()
        for _, write in entries[:kept]:
            write()

    def _commit(self) -> None:
        while self._entries and self._entries[0][0] <= asyncio.get_running_loop().time():
            self._entries.popleft()[1]()
            if self._watched is not None:
                left, then = self._watched
                self._watched = (left - 1, then) if left > 1 else None
                if left == 1:
                    then()


class Consumer(Protocol):
    """What a queue delivers to."""

    @property
    def room(self) -> bool: ...

    def deliver(self, message: Message) -> None: ...

    def cancelled(self) -> None:
        """The queue is gone."""
        ...


class Queue:
    """One quorum queue. Messages leave by its arguments: from the head only when their time is over, and to its
    dead-letter exchange under confirms where that is asked for."""

    def __init__(
        self,
        name: str,
        arguments: Mapping[str, Any],
        log: Log,
        route: Callable[[str, str], "list[Queue]"],
        history: History,
    ) -> None:
        self.name, self.arguments = name, dict(arguments)
        self._log, self._route, self._history = log, route, history
        self.ready: deque[Message] = deque()
        self.consumers: deque[Consumer] = deque()
        self.held: dict[int, Message] = {}
        """Delivered, and no ack of it is written yet."""
        self._dying: deque[tuple[Message, str]] = deque()
        self._on_their_way: dict[int, tuple[Message, str]] = {}
        self._passing: dict[int, Message] = {}
        """Dead, and lost if the server dies now."""
        self.life = 0
        """How often the server crashed."""

    @property
    def empty(self) -> bool:
        return not (self.ready or self.held or self._dying or self._on_their_way)

    def push(self, message: Message) -> None:
        """A message is written."""
        now = asyncio.get_running_loop().time()
        limits = [int(found) for found in (self.arguments.get("x-message-ttl"), message.properties.expiration) if found]
        message.expires = now + min(limits) / 1_000 if limits else float("inf")
        self.ready.append(message)
        self._history.stored(message.body, self.name)
        self.pump()

    def pump(self) -> None:
        """Deliver what there is room for, and let go what is over."""
        now = asyncio.get_running_loop().time()
        while self.ready and self.ready[0].expires <= now:
            self._dies(self.ready.popleft(), "expired")
        while self.ready and (consumer := self._next()) is not None:
            message = self.ready.popleft()
            self.held[message.serial] = message
            consumer.deliver(message)
        if self.ready and self.ready[0].expires < float("inf"):
            asyncio.get_running_loop().call_at(self.ready[0].expires, self.pump)

    def settle(self, message: Message) -> None:
        """It was acked."""

        def write() -> None:
            if self.held.pop(message.serial, None) is not None:
                self._history.gone(message.body, self.name)

        self._log.append(write)
        self.pump()

    def give_back(self, messages: list[Message]) -> None:
        """Their consumer is gone, or refused them: they are ready again, before all others."""
        back = []
        for message in messages:
            if self.held.pop(message.serial, None) is None:
                continue
            message.returns += 1
            self._history.returned(message.body, self.name)
            if message.returns > self.arguments.get("x-delivery-limit", float("inf")):
                self._dies(message, "delivery_limit")
            else:
                back.append(message)
        self.ready.extendleft(reversed(back))
        self.pump()

    def crash(self) -> None:
        self.life += 1
        self.consumers.clear()
        while self._passing:
            self._history.gone(self._passing.popitem()[1].body, self.name)
        for message, _ in self._on_their_way.values():
            self._history.excuse(message.body)
        self._dying.extendleft(reversed(self._on_their_way.values()))
        self._on_their_way.clear()
        self.give_back(list(self.held.values()))
        self._sends()

    def _next(self) -> Consumer | None:
        for _ in range(len(self.consumers)):
            self.consumers.rotate(-1)
            if self.consumers[-1].room:
                return self.consumers[-1]
        return None

    def _dies(self, message: Message, reason: str) -> None:
        if "x-dead-letter-exchange" not in self.arguments:
            self._history.gone(message.body, self.name)
        elif (
            self.arguments.get("x-dead-letter-strategy") == "at-least-once"
            and self.arguments.get("x-overflow") == "reject-publish"
        ):
            self._dying.append((message, reason))
            self._sends()
        else:
            self._passing[message.serial] = message
            self._log.append(lambda: self._passes(message, reason))

    def _passes(self, message: Message, reason: str) -> None:
        """It is out of this queue, and not yet in another."""

        def write() -> None:
            for target in self._targets(message):
                target.push(self._dead(message, reason))
            if self._passing.pop(message.serial, None) is not None:
                self._history.gone(message.body, self.name)

        self._log.append(write)

    def _sends(self) -> None:
        while self._dying and len(self._on_their_way) < AT_ONCE:
            message, reason = self._dying.popleft()
            self._on_their_way[message.serial] = (message, reason)
            self._send(message, reason, self.life)

    def _send(self, message: Message, reason: str, life: int) -> None:
        if life != self.life:
            return
        targets = self._targets(message)
        if not targets:
            asyncio.get_running_loop().call_later(STUCK, self._send, message, reason, life)
            return

        def write() -> None:
            for target in targets:
                target.push(self._dead(message, reason))
            if life == self.life:
                self._log.append(confirmed)

        def confirmed() -> None:
            if self._on_their_way.pop(message.serial, None) is not None:
                self._history.gone(message.body, self.name)
                self._sends()

        self._log.append(write)

    def _targets(self, message: Message) -> "list[Queue]":
        return self._route(
            self.arguments["x-dead-letter-exchange"], self.arguments.get("x-dead-letter-routing-key", message.key)
        )

    def _dead(self, message: Message, reason: str) -> Message:
        """The message as its dead-letter exchange gets it."""
        death = {
            "reason": reason,
            "queue": self.name,
            "count": 1,
            "exchange": message.exchange,
            "routing-keys": [message.key],
            "time": datetime.fromtimestamp(int(EPOCH + asyncio.get_running_loop().time()), UTC).replace(tzinfo=None),
        }
        headers = message.headers
        headers["x-death"] = [death, *headers.get("x-death", [])]
        headers.setdefault("x-first-death-reason", reason)
        headers.setdefault("x-first-death-queue", self.name)
        properties = spec.BasicProperties(
            headers=headers,
            delivery_mode=message.properties.delivery_mode,
            message_id=message.properties.message_id,
            timestamp=message.properties.timestamp,
        )
        key = self.arguments.get("x-dead-letter-routing-key", message.key)
        return replace(
            message,
            exchange=self.arguments["x-dead-letter-exchange"],
            key=key,
            properties=properties,
            returns=0,
            serial=next(_serials),
        )
