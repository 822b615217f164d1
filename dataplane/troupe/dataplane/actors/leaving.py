"""Turns that go on under their marks after their shards were handed over."""

import asyncio
from collections.abc import Callable, Iterator

import structlog

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.chassis.errors import TroupeError
from troupe.dataplane.actors.actor import Actor

PUT_BACK = 1.0
"""Seconds that putting back a turn that is to end may take."""

log = structlog.get_logger()


class Leaving:
    """The actors of such turns. `timeout` is what each turn gets, in seconds; None: as long as it may take at all.
    `gone` hears when one has left memory."""

    def __init__(self, timeout: float | None, gone: Callable[[Actor], None]) -> None:
        self.timeout, self._gone = timeout, gone
        self._actors: set[Actor] = set()

    def __iter__(self) -> Iterator[Actor]:
        """Those of now, whatever leaves meanwhile."""
        return iter(list(self._actors))

    def add(self, actor: Actor) -> None:
        """Its turn goes on. To be seen off."""
        self._actors.add(actor)

    def runs(self, key: SessionKey, number: Number) -> bool:
        """Whether this message is one of them."""
        return any(
            actor.key == key and actor.turn is not None and actor.turn.of(number) is not None for actor in self._actors
        )

    async def see_off(self, actor: Actor) -> None:
        """Let the turn come to its end under its mark. One that takes too long is put back: the new owner need not
        wait for what is not going to end."""
        try:
            async with asyncio.timeout(self.timeout):
                await actor.rested.wait()
        except TimeoutError:
            try:
                async with asyncio.timeout(PUT_BACK):
                    await actor.put_back()
            except (TroupeError, TimeoutError) as error:
                log.info("turn not put back", session=str(actor.key), error=str(error))
        finally:
            self._actors.discard(actor)
            actor.stop_async()
            self._gone(actor)
