"""Numbering messages and publishing them, each until the broker has confirmed it or its number is given up.

A number is free again only where its message certainly was not sent. Otherwise nobody can know: the same envelope is
published again for as long as its caller waits, and then a SKIP takes its place, so that what comes after it need not
wait for it. A SKIP that comes after its message does nothing. A scheduled message has a stream of its own, in which
nothing comes after it.
"""

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final, Never

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.broker.port import Broker, NotSent
from troupe.chassis import fault_points
from troupe.chassis.clock import Clock
from troupe.chassis.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from troupe.chassis.ids import uuid7
from troupe.chassis.outage import Outage
from troupe.dataplane import admission, metrics
from troupe.v1 import envelope_pb2
from troupe.v1.envelope_pb2 import Envelope

FORGET_STREAM: Final = 23 * 3600.0
"""Seconds of silence after which a stream is not gone on with: receivers forget it after 24 h."""
MAX_STREAMS: Final = 100_000
"""Sessions whose streams a gateway remembers; a session beyond it gets a new stream with its next message."""
MAX_UNCONFIRMED: Final = 10_000
"""Messages and SKIPs that may wait for their confirms at once. Beyond it nothing is numbered."""
SKIPS_AT_ONCE: Final = 256
RESEND: Final = (0.05, 1.0)
"""Seconds between two publishes of one message, or of the SKIPs: at first, and at most."""


@dataclass(slots=True)
class _Stream:
    id: str
    sequence: int
    used: float


class Sender:
    """One gateway's streams. Make one with `opened`."""

    def __init__(self, broker: Broker, clock: Clock) -> None:
        self._broker, self._clock = broker, clock
        self._streams: OrderedDict[SessionKey, _Stream] = OrderedDict()
        self._under_way = 0
        self._skips: deque[Envelope] = deque()
        self._given_up = asyncio.Event()

    @staticmethod
    @contextlib.asynccontextmanager
    async def opened(broker: Broker, clock: Clock) -> AsyncIterator["Sender"]:
        """On exit SKIPs that are not confirmed are given up: the streams end with this process, and receivers pass
        their numbers over."""
        async with asyncio.TaskGroup() as tasks:
            sender = Sender(broker, clock)
            filling = tasks.create_task(sender._fill())
            try:
                yield sender
            finally:
                filling.cancel()

    def knows(self, key: SessionKey) -> bool:
        """Whether something was sent to the session here, not long ago."""
        return key in self._streams

    async def send(
        self, key: SessionKey, envelope: Envelope, within: float, numbered: Callable[[Number], None]
    ) -> Number:
        """Give the envelope its number in the session's stream and publish it; its number, once it is confirmed.
        `numbered` is called just before it is published.

        Raises ResourceExhausted where the broker takes nothing now, and what `Broker.publish` raises for a message
        that cannot be sent: it was not. Unavailable, before anything is sent, where too many confirms are waited for.
        DeadlineExceeded when the confirm does not come `within` seconds: the message may arrive or not."""
        if len(self._skips) + self._under_way >= MAX_UNCONFIRMED:
            raise Unavailable(
                "UNCONFIRMED",
                f"the broker has {MAX_UNCONFIRMED:,} messages to confirm before it gets another; try later",
                retry_after=1.0,
            )
        stream = _Stream(uuid7(), 0, self._clock.monotonic()) if envelope.HasField("due") else self._stream(key)
        stream.sequence += 1
        number = Number(stream.id, stream.sequence)
        envelope.number.stream, envelope.number.sequence = number.stream, number.sequence
        self._under_way += 1
        try:
            numbered(number)
            fault_points.reach("publish.before")
            await self._confirmed(envelope, within)
            fault_points.reach("publish.confirmed")
        except (NotSent, NotFound, InvalidArgument) as error:
            # The number is free, unless another was given out meanwhile.
            if stream.sequence == number.sequence:
                stream.sequence -= 1
            else:
                self._give_up(envelope)
            if isinstance(error, NotSent):
                raise admission.blocked() from error
            raise
        except BaseException:
            metrics.UNCONFIRMED.inc()
            self._give_up(envelope)
            raise
        finally:
            self._under_way -= 1
        return number

    async def _confirmed(self, envelope: Envelope, within: float) -> None:
        """Raises NotSent, NotFound and InvalidArgument where it was not sent, not once."""
        delay, longest = RESEND
        unknown: Unavailable | None = None
        try:
            async with asyncio.timeout(within):
                while True:
                    try:
                        return await self._broker.publish(envelope)
                    except (NotSent, NotFound, InvalidArgument):
                        if unknown is None:
                            raise
                    except Unavailable as error:
                        unknown = error
                    await self._clock.sleep(delay)
                    delay = min(longest, delay * 2)
        except TimeoutError as error:
            why = f" ({unknown})" if unknown else ""
            raise DeadlineExceeded(
                "UNCONFIRMED",
                f"the broker did not confirm message {envelope.id} within {within:.3g} s{why}; it may arrive all the "
                "same: send it again under this id",
            ) from unknown or error

    def _stream(self, key: SessionKey) -> _Stream:
        now = self._clock.monotonic()
        stream = self._streams.get(key)
        if stream is None or now - stream.used > FORGET_STREAM:
            stream = self._streams[key] = _Stream(uuid7(), 0, now)
        stream.used = now
        self._streams.move_to_end(key)
        if len(self._streams) > MAX_STREAMS:
            self._streams.popitem(last=False)
        return stream

    def _give_up(self, envelope: Envelope) -> None:
        if envelope.HasField("due"):
            return
        skip = Envelope(
            id=envelope.id,
            target=envelope.target,
            number=envelope.number,
            kind=envelope_pb2.ENVELOPE_KIND_SKIP,
            first_sent=envelope.first_sent,
        )
        self._skips.append(skip)
        self._given_up.set()

    async def _fill(self) -> Never:
        """Publish the SKIPs, all that there are, until each is confirmed."""
        delay, longest = RESEND
        outage = Outage("numbers of unknown outcome not filled, trying again", self._clock.monotonic)
        while True:
            await self._given_up.wait()
            batch = list(islice(self._skips, SKIPS_AT_ONCE))
            left = await self._unpublished(batch)
            for _ in batch:
                self._skips.popleft()
            self._skips.extend(left)
            if not self._skips:
                self._given_up.clear()
            if left:
                outage.failed("the broker did not confirm what takes their places", numbers=len(self._skips))
                await self._clock.sleep(delay)
            else:
                outage.over()
            delay = min(longest, delay * 2) if left else RESEND[0]

    async def _unpublished(self, skips: list[Envelope]) -> list[Envelope]:
        try:
            outcomes = await self._broker.publish_many(skips)
        except (Unavailable, NotFound):
            return skips
        return [skip for skip, error in zip(skips, outcomes, strict=True) if isinstance(error, Unavailable | NotFound)]
