"""Which workers answer and do not work, from what they report of their progress. Pure: time is an argument.

A process is stuck by a shard where something that could run has been held up for longer than `after`, nothing was
settled there for as long, and its event loop had time. It is given up only where that helps: another process must get
on, and the shard must not have cost a process its shards before, a short while ago. What is down for all, or for one
shard whoever has it, moves nothing. A process that is given up rests: it gets nothing until it says that it is well and
its rest is over, each longer than the one before. So an owner that is well for moments only takes ever less with it.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from troupe.v1.status_pb2 import StatusReport

FULL: Final = 0.9
"""Share of a processor from which on an event loop has no time left: what waits there waits for its turn."""
WELL: Final = 1 / 3
"""Share of `after` for which something may be held up where a process gets on."""
REST: Final = (60.0, 960.0)
"""Seconds that a process rests: the first time, and at most; each time twice as long."""
BLAME: Final = 600.0
"""Seconds for which a shard counts no more that cost a process its shards, and after which a rest is forgotten."""


@dataclass(slots=True)
class _Seen:
    """One process, by its last report."""

    worst: float = 0.0
    """Seconds for which something has been held up longest."""
    free: bool = True
    held: dict[int, tuple[int, int, float]] = field(default_factory=dict)
    """Of each shard where something is held up: the epoch, how many messages it had settled, and since when that number
    is the same."""
    old: frozenset[int] = frozenset()
    """Those where it is for longer than `after`."""


@dataclass(frozen=True, slots=True)
class _Rest:
    ends: float
    length: float
    shards: frozenset[int]


class Stuck:
    """The processes of one fleet, by their instance ids, as its leader hears of them; a new leader begins anew."""

    def __init__(self, after: float) -> None:
        self._after = after
        self._seen: dict[str, _Seen] = {}
        self._rests: dict[str, _Rest] = {}
        self._blamed: dict[int, float] = {}
        self._resting: set[str] = set()

    def reported(self, report: StatusReport, now: float) -> None:
        """A process says how it gets on."""
        seen = self._seen.setdefault(report.instance_id, _Seen())
        held, old = {}, set[int]()
        seen.worst, seen.free = 0.0, report.load.busy < FULL
        for shard in report.shards:
            if not shard.HasField("held_up_seconds"):
                continue
            epoch, settled, since = seen.held.get(shard.shard, (0, 0, now))
            same = (epoch, settled) == (shard.epoch, shard.settled)
            held[shard.shard] = (shard.epoch, shard.settled, since if same else now)
            seen.worst = max(seen.worst, shard.held_up_seconds)
            if shard.held_up_seconds > self._after:
                old.add(shard.shard)
        seen.held, seen.old = held, frozenset(old)

    def judge(self, candidates: Collection[str], now: float) -> dict[str, frozenset[int]]:
        """Which of the candidates, processes that are alive and do not drain, are given up now."""
        self._seen = {name: seen for name, seen in self._seen.items() if name in candidates}
        self._rests = {
            name: rest for name, rest in self._rests.items() if name in candidates and now < rest.ends + BLAME
        }
        self._blamed = {shard: until for shard, until in self._blamed.items() if now < until}
        self._resting = {name for name in self._resting & self._rests.keys() if not self._is_over(name, now)}
        well = {name for name, seen in self._seen.items() if name not in self._resting and self._gets_on(seen)}
        given_up: dict[str, frozenset[int]] = {}
        for name, seen in sorted(self._seen.items()):
            shards = self._stuck(seen, now) - self._blamed.keys()
            if shards and name not in self._resting and well:
                given_up[name] = shards
                self._give_up(name, shards, now)
        return given_up

    @property
    def resting(self) -> frozenset[str]:
        """The processes that are to have no shards."""
        return frozenset(self._resting)

    def shards(self, instance_id: str) -> frozenset[int]:
        """By which shards a process that rests was stuck; none for another one."""
        return self._rests[instance_id].shards if instance_id in self._resting else frozenset()

    def _stuck(self, seen: _Seen, now: float) -> frozenset[int]:
        if not seen.free:
            return frozenset()
        return frozenset(shard for shard in seen.old if now - seen.held[shard][2] >= self._after)

    def _gets_on(self, seen: _Seen) -> bool:
        return seen.worst <= self._after * WELL

    def _give_up(self, name: str, shards: frozenset[int], now: float) -> None:
        before = self._rests.get(name)
        length = REST[0] if before is None else min(REST[1], before.length * 2)
        self._rests[name] = _Rest(now + length, length, shards)
        self._resting.add(name)
        self._blamed.update(dict.fromkeys(shards, now + BLAME))

    def _is_over(self, name: str, now: float) -> bool:
        seen = self._seen.get(name)
        return now >= self._rests[name].ends and seen is not None and self._gets_on(seen)
