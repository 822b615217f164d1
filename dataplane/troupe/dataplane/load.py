"""How a worker is and what it carries, sampled for reports. Reporting never waits for a turn."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from troupe.chassis.clock import Clock
from troupe.chassis.wire import timestamp
from troupe.dataplane.actors.host import Host
from troupe.dataplane.actors.world import Ending
from troupe.dataplane.capacity import capacity
from troupe.dataplane.config import Applier
from troupe.dataplane.vitals import Vitals
from troupe.dataplane.watchdog import LoopWatch
from troupe.v1 import status_pb2
from troupe.v1.status_pb2 import Health, Load, PlacementPosition, ShardStatus, StatusReport

RATE_WINDOW: Final = 10.0
LATENCY_WINDOW: Final = 60.0
MAX_SAMPLES: Final = 4096
"""Turns of the latency window that are kept: the newest."""
HEARTBEAT: Final = 3.0
"""Seconds between two reports at most."""
SAMPLE: Final = 0.25
"""Seconds between two looks for a change."""
SOON: Final = 0.01
"""Seconds from a change of what is held to the look for it: shards are handed over many at a time."""


@dataclass(slots=True)
class TurnMeter:
    """Counts settled turns, how long they took, and how they fared under the newest revision."""

    clock: Clock
    turns: int = 0
    _settled: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))
    _generation: int = 0
    _begun: int = 0
    _hopeless: int = 0

    def ended(self, ending: Ending) -> None:
        """A message was answered or given up."""
        self.turns += 1
        if ending.latency is not None:
            self._settled.append((self.clock.monotonic(), ending.latency))
        if ending.generation > self._generation:
            self._generation, self._begun, self._hopeless = ending.generation, 0, 0
        if ending.generation == self._generation:
            self._begun += 1
            self._hopeless += ending.hopeless

    def of(self, generation: int) -> tuple[int, int]:
        """(turns that ended under the revision of this generation, those of them that could not have succeeded)."""
        return (self._begun, self._hopeless) if generation == self._generation else (0, 0)

    def rate(self) -> float:
        """Turns per second over the last RATE_WINDOW seconds."""
        since = self.clock.monotonic() - RATE_WINDOW
        return sum(at >= since for at, _ in self._settled) / RATE_WINDOW

    def p99(self) -> float | None:
        """99th percentile of latency over the last LATENCY_WINDOW seconds; None without turns."""
        since = self.clock.monotonic() - LATENCY_WINDOW
        latencies = sorted(latency for at, latency in self._settled if at >= since)
        return latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))] if latencies else None


class Reporter:
    """Makes this worker's status reports."""

    def __init__(
        self,
        worker_id: str,
        instance_id: str,
        host: Host,
        applier: Applier,
        meter: TurnMeter,
        watch: LoopWatch,
        vitals: Vitals,
        clock: Clock,
    ) -> None:
        self._worker_id, self._instance_id = worker_id, instance_id
        self._host, self._applier, self._meter, self._clock = host, applier, meter, clock
        self._watch, self._vitals = watch, vitals
        self.leaving = ""
        """Why the worker drains; empty while it does not."""
        self.capacity = capacity(host.max_hot)

    def report(self, sequence: int) -> StatusReport:
        """The status now."""
        term, version = self._host.position
        return StatusReport(
            worker_id=self._worker_id,
            instance_id=self._instance_id,
            sequence=sequence,
            running=self._applier.running_revision(),
            last_attempt=self._applier.last_attempt,
            health=self._health(),
            capacity=self.capacity,
            shards=self._shards(),
            load=Load(
                hot_sessions=self._host.hot,
                running_turns=self._host.running,
                turns=self._meter.turns,
                turns_per_second=self._meter.rate(),
                turn_latency_p99_seconds=self._meter.p99(),
                busy=self._vitals.busy,
            ),
            time=timestamp(self._clock.now()),
            placement=PlacementPosition(term=term, version=version) if term else None,
        )

    async def reports(self) -> AsyncIterator[StatusReport]:
        """The status in full at once, then whenever revision, health or shards change, and every HEARTBEAT seconds.
        A caller that is slow gets the newest when it comes back."""
        sequence, said = 0, 0.0
        last: tuple[object, ...] = ()
        while True:
            standing, now = self._standing(), self._clock.monotonic()
            if standing != last or now - said >= HEARTBEAT:
                sequence, last, said = sequence + 1, standing, now
                yield self.report(sequence)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAMPLE):
                    await self._host.moved()
                    await asyncio.sleep(SOON)

    def _standing(self) -> tuple[object, ...]:
        """What a change of is reported at once. Looked at so often that it is not made into a report for that."""
        applier, host = self._applier, self._host
        return applier.running_revision(), applier.last_attempt, self._health(), host.position, host.states()

    def _shards(self) -> list[ShardStatus]:
        statuses, held_up = self._host.statuses(), self._vitals.held_up()
        for status in statuses:
            if status.shard in held_up:
                status.held_up_seconds = held_up[status.shard]
        return statuses

    def _health(self) -> Health:
        if self.leaving:
            return Health(state=status_pb2.HEALTH_STATE_DRAINING, cause=self.leaving)
        if self._vitals.trouble:
            return Health(state=status_pb2.HEALTH_STATE_DEGRADED, cause=self._vitals.trouble)
        if blocked := self._watch.blocked(self._clock.monotonic() - LATENCY_WINDOW):
            cause = f"something blocked the event loop for {blocked:.1f} s within the last minute"
            return Health(state=status_pb2.HEALTH_STATE_DEGRADED, cause=cause)
        return Health(state=status_pb2.HEALTH_STATE_HEALTHY)
