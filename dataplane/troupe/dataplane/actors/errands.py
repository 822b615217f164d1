"""What an actor does beside its turns: each kind of errand one at a time."""

from collections.abc import Callable, Coroutine
from enum import Enum, auto
from typing import Any

from troupe.dataplane.actors.world import World
from troupe.dataplane.state.errors import Fenced
from troupe.dataplane.state.session import Owner


class Errand(Enum):
    PLACE = auto()
    """Write what has waited long enough to the inbox."""
    FLUSH = auto()
    """Send what the session's turns sent."""
    TAKE_OVER = auto()
    """See what becomes of the message under another owner's mark."""
    REST = auto()
    """Lay the session to rest."""


class Errands:
    """Of one session. `failed` hears of what only a defect can raise; `step` comes after each."""

    def __init__(
        self, world: World, owner: Owner, failed: Callable[[str, Exception], None], step: Callable[[], None]
    ) -> None:
        self._world, self._owner, self._failed, self._step = world, owner, failed, step
        self._under_way: set[Errand] = set()

    def __contains__(self, errand: Errand) -> bool:
        """It is under way."""
        return bool(self._under_way) and errand in self._under_way

    def start(self, errand: Errand, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do `work`, unless an errand of the kind is under way."""
        if errand not in self._under_way:
            self._under_way.add(errand)
            self._world.spawn(self._run(work(), errand))

    def beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`, whatever else is under way."""
        self._world.spawn(self._run(work))

    async def _run(self, work: Coroutine[Any, Any, None], errand: Errand | None = None) -> None:
        try:
            await work
        except Fenced as fenced:
            self._world.fenced(self._owner, fenced.epoch)
        except Exception as error:
            self._failed("work beside a turn failed: a defect of the runtime", error)
        finally:
            if errand is not None:
                self._under_way.discard(errand)
        self._step()
