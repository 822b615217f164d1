"""The connection to one process of one worker: follows its reports, brings it placements and revisions.

Each link is a task of its own, so a worker that is slow, hangs or refuses delays nobody else; and within a link,
reports, placements and revisions do not wait for each other.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from typing import Any, Final, Never, Protocol

import structlog

from troupe.chassis.background import background
from troupe.chassis.clock import Clock
from troupe.chassis.errors import FailedPrecondition, TroupeError, Unavailable
from troupe.controlplane import metrics
from troupe.controlplane.clients import Refused, WorkerClient
from troupe.controlplane.delays import backoff
from troupe.controlplane.packed import Packed
from troupe.controlplane.placement import Member
from troupe.controlplane.pushes import Pushes, RetryTimes
from troupe.controlplane.sending import LONGEST, Sending
from troupe.v1.status_pb2 import ApplyPhase, RevisionAttempt, StatusReport

log = structlog.get_logger()

Dial = Callable[[str], AbstractAsyncContextManager[WorkerClient]]
"""Opens a client of the worker at an address."""

REFUSALS: Final = 3
"""So many refused dials,"""
REFUSALS_WITHIN: Final = 1.0
"""within so many seconds, and the worker's process counts as gone."""


class Heard(Protocol):
    """Who takes what a link learns of its worker's process. Calls return at once, and raise nothing."""

    def report(self, member: Member, report: StatusReport) -> None:
        """It reported."""
        ...

    def answer(self, member: Member, attempt: RevisionAttempt) -> None:
        """It answered an Apply; where the call failed, this says so in its place."""
        ...

    def refused(self, member: Member) -> None:
        """Nobody listens at its address any more, as a few dials in a row have found."""
        ...


@dataclass(frozen=True, slots=True)
class LinkTimes:
    """In seconds."""

    first_report: float = 10.0
    """A worker that is reached and does not report for this long is given up and dialled again."""
    place: float = 10.0
    """Place is answered at once."""
    apply: float = 60.0
    """An Apply prepares and starts every resource that changes, which may import large packages."""
    redial: RetryTimes = field(default_factory=lambda: RetryTimes(first=0.1, longest=5.0))
    """Between two tries to reach the worker."""
    again: RetryTimes = field(default_factory=RetryTimes)
    """Between two tries to bring it the same thing."""


class Link:
    """Brings one process of one worker what is newest, for as long as `run` runs."""

    def __init__(
        self,
        member: Member,
        dial: Dial,
        heard: Heard,
        clock: Clock,
        random: Callable[[], float],
        times: LinkTimes,
        sending: Sending,
    ) -> None:
        self._member, self._dial, self._heard = member, dial, heard
        self._clock, self._random, self._times, self._sending = clock, random, times, sending
        self._pushes = Pushes(random, times.again)
        self._placement: bytes | None = None
        self._refusals: deque[float] = deque(maxlen=REFUSALS)
        self._offered, self._placed = asyncio.Event(), asyncio.Event()

    def offer(self, offer: Packed | None) -> None:
        """What the worker is to run now, None for what it has; one that was offered and not yet sent is passed
        over."""
        self._pushes.offer(offer, self._clock.monotonic())
        self._offered.set()

    @property
    def parked(self) -> bool:
        """Whether the worker has refused for good what it is to run now."""
        return self._pushes.parked

    def place(self, placement: bytes) -> None:
        """`placement`, a serialised PlaceRequest, is the newest one now."""
        self._placement = placement
        self._placed.set()

    async def run(self) -> Never:
        """Dial, talk, and dial again, until cancelled."""
        failures = 0
        while True:
            try:
                async with self._dial(self._member.address) as client, aclosing(self._reports(client)) as reports:
                    await self._met(reports)
                    failures = 0
                    await self._talk(client, reports)
            except* TroupeError as errors:
                log.info(
                    "worker not reached" if failures else "connection to worker lost",
                    worker=self._member.worker_id,
                    address=self._member.address,
                    error=str(_first(errors)),
                )
                if isinstance(_first(errors), Refused):
                    self._refused()
            failures += 1
            redial = self._times.redial
            await self._clock.sleep(backoff(failures, redial.first, redial.longest, self._random))

    def _refused(self) -> None:
        now = self._clock.monotonic()
        self._refusals.append(now)
        if len(self._refusals) == REFUSALS and now - self._refusals[0] <= REFUSALS_WITHIN:
            self._heard.refused(self._member)

    async def _reports(self, client: WorkerClient) -> AsyncGenerator[StatusReport, None]:
        """The reports of the process that this link is for. Another may answer at its address: a worker of another
        fleet, or a new process that has not registered yet; neither shall get what is this one's."""
        member = self._member
        async with aclosing(client.reports()) as reports:
            async for report in reports:
                if (report.worker_id, report.instance_id) != (member.worker_id, member.instance_id):
                    raise Unavailable(
                        "OTHER_WORKER", f"{report.worker_id} answers at {member.address}, in another process"
                    )
                self._pushes.reported(report, self._clock.monotonic())
                self._offered.set()
                self._heard.report(member, report)
                yield report
        raise Unavailable("REPORT_ENDED", f"{member.worker_id} ended its report")

    async def _met(self, reports: AsyncIterator[StatusReport]) -> None:
        try:
            async with asyncio.timeout(self._times.first_report):
                await anext(reports)
        except TimeoutError as error:
            raise Unavailable("SILENT", f"no report within {self._times.first_report:g} s") from error
        log.info("worker reached", worker=self._member.worker_id, address=self._member.address)

    async def _talk(self, client: WorkerClient, reports: AsyncIterator[StatusReport]) -> None:
        self._pushes.connected()
        async with background() as group:
            group.create_task(self._placing(client))
            group.create_task(self._applying(client))
            async for _ in reports:
                pass

    async def _placing(self, client: WorkerClient) -> Never:
        failures = 0
        while True:
            self._placed.clear()
            wait: float | None = None
            if self._placement is not None:
                try:
                    await client.place(self._placement, self._times.place)
                    failures = 0
                except FailedPrecondition as error:
                    log.warning("placement refused", worker=self._member.worker_id, error=str(error))
                except TroupeError as error:
                    failures += 1
                    wait = backoff(failures, self._times.again.first, self._times.again.longest, self._random)
                    log.warning("placement not brought", worker=self._member.worker_id, error=str(error))
            await self._within(self._placed, wait)

    async def _applying(self, client: WorkerClient) -> Never:
        while True:
            self._offered.clear()
            due = self._pushes.due(self._clock.monotonic())
            if due is None or due[1] > 0:
                await self._within(self._offered, due[1] if due is not None else None)
            else:
                await self._apply(client, due[0])

    async def _apply(self, client: WorkerClient, offer: Packed) -> None:
        told = log.bind(worker=self._member.worker_id, revision=offer.revision_id, generation=offer.generation)
        try:
            attempt = await self._sent(client, offer)
        except TroupeError as error:
            self._pushes.failed(offer, error.retryable, self._clock.monotonic())
            outcome, reason = "error", str(error)
            self._heard.answer(self._member, _failed(offer, error))
        else:
            self._pushes.answered(attempt, self._clock.monotonic())
            outcome = ApplyPhase.Name(attempt.phase).removeprefix("APPLY_PHASE_").lower()
            reason = attempt.error.message
            self._heard.answer(self._member, attempt)
        metrics.APPLIES.labels(outcome).inc()
        if self._pushes.parked:
            told.error("revision refused", outcome=outcome, error=reason)
        elif reason:
            told.warning("revision not taken yet", outcome=outcome, error=reason)
        else:
            told.info("revision brought", outcome=outcome)

    async def _sent(self, client: WorkerClient, offer: Packed) -> RevisionAttempt:
        async with self._sending.room(len(offer.request)):
            call = asyncio.ensure_future(client.apply(offer, self._times.apply))
            try:
                await self._until(call, LONGEST)
            except asyncio.CancelledError:
                call.cancel()
                raise
        return await call

    async def _within(self, event: asyncio.Event, seconds: float | None) -> None:
        """Until the event is set, or `seconds` have passed."""
        waiting = asyncio.ensure_future(event.wait())
        try:
            await self._until(waiting, seconds)
        finally:
            waiting.cancel()

    async def _until(self, done: "asyncio.Future[Any]", seconds: float | None) -> None:
        timer = [asyncio.ensure_future(self._clock.sleep(seconds))] if seconds is not None else []
        try:
            await asyncio.wait([done, *timer], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in timer:
                each.cancel()


def _failed(offer: Packed, error: TroupeError) -> RevisionAttempt:
    return RevisionAttempt(
        revision_id=offer.revision_id,
        generation=offer.generation,
        term=offer.term,
        content_hash=offer.content_hash,
        phase=ApplyPhase.APPLY_PHASE_FAILED,
        error=error.detail(),
    )


def _first(errors: BaseExceptionGroup[TroupeError]) -> BaseException:
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
