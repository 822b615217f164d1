"""Which revision a worker runs: taken whole or not at all, and remembered across restarts.

What an `Apply` comes to is decided by `judge`, which is pure. Two files beside the stores hold the last known good
revision and one that is still on trial; each is replaced atomically. A worker that dies with one on trial boots the
last known good one and says so.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from pathlib import Path

import structlog
from google.protobuf.message import DecodeError

from troupe.chassis.clock import Clock
from troupe.chassis.errors import Aborted, DataLoss, FailedPrecondition, Internal, TroupeError, Unavailable
from troupe.dataplane import metrics
from troupe.dataplane.revision import Revision
from troupe.v1 import status_pb2
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.status_pb2 import ApplyPhase, RevisionAttempt, RunningRevision

log = structlog.get_logger()


class Verdict(Enum):
    """How a revision stands to what the worker has seen."""

    STALE = auto()
    SAME = auto()
    CLASH = auto()
    """The same place in order with other content."""
    NEW = auto()


def judge(seen: RevisionAttempt | None, config: ConfigSpec) -> Verdict:
    """`seen` is the newest revision that was tried."""
    if seen is None:
        return Verdict.NEW
    before, now = (seen.term, seen.generation), (config.term, config.generation)
    if now != before:
        return Verdict.NEW if now > before else Verdict.STALE
    return Verdict.SAME if seen.content_hash == config.content_hash else Verdict.CLASH


class Abandoned(Aborted):
    """The worker died while the revision was on trial."""

    retryable = True


class Applier:
    """Holds the running revision. `healthy` answers None, or what has gone wrong since a swap, which was at that
    Clock.monotonic(): it is asked `checks` times within `window` seconds of it, once for a worker's first revision."""

    def __init__(
        self,
        files: "RevisionFiles",
        prepare: Callable[[ConfigSpec], Revision],
        changed: Callable[[], Awaitable[None]],
        healthy: Callable[[float], TroupeError | None],
        clock: Clock,
        tasks: asyncio.TaskGroup,
        *,
        checks: int,
        window: float,
    ) -> None:
        self.running: Revision | None = None
        self.last_attempt: RevisionAttempt | None = None
        self._files, self._prepare, self._changed, self._healthy = files, prepare, changed, healthy
        self._clock, self._tasks, self._checks, self._window = clock, tasks, checks, window
        self._one_at_a_time = asyncio.Lock()
        self._trial: asyncio.Task[None] | None = None
        self._applying: set[asyncio.Task[RevisionAttempt]] = set()
        self._good: Revision | None = None

    async def boot(self) -> None:
        """Run the last known good revision, if there is one. What cannot be prepared any more is left to the next
        Apply: the worker then runs nothing."""
        good, pending = await asyncio.to_thread(self._files.read)
        if good is not None:
            try:
                self.running = self._good = await self._prepared(good)
                self._record(good, status_pb2.APPLY_PHASE_APPLIED)
            except TroupeError as error:
                log.error("last known good revision cannot run", revision=good.revision_id, error=str(error))
        if pending is not None:
            abandoned = Abandoned("ABANDONED", "the worker died while this revision was on trial")
            self._record(pending, status_pb2.APPLY_PHASE_ABANDONED, abandoned)
            await asyncio.to_thread(self._files.clear_pending)
        if self.running is not None:
            await self._changed()

    async def apply(self, config: ConfigSpec) -> RevisionAttempt:
        """Take the revision; answers once it runs, or was refused. Cancelled: it goes on, so that it is taken whole or
        not at all, and asking again tells what came of it."""
        applying = self._tasks.create_task(self._apply(config))
        self._applying.add(applying)
        applying.add_done_callback(self._applying.discard)
        return await asyncio.shield(applying)

    async def _apply(self, config: ConfigSpec) -> RevisionAttempt:
        async with self._one_at_a_time:
            match judge(self.last_attempt, config):
                case Verdict.NEW:
                    return await self._take(config)
                case Verdict.SAME if self._may_repeat():
                    return await self._take(config)
                case Verdict.SAME:
                    assert self.last_attempt is not None
                    return self.last_attempt
                case Verdict.STALE:
                    stale = FailedPrecondition("REJECTED_STALE", "the worker has seen a newer revision")
                    return _attempt(config, status_pb2.APPLY_PHASE_REJECTED_STALE, stale)
                case Verdict.CLASH:
                    clash = Internal("REVISION_CLASH", "the worker has another revision of this term and generation")
                    metrics.REVISION_CLASHES.inc()
                    log.error("two revisions of one generation", revision=config.revision_id)
                    return _attempt(config, status_pb2.APPLY_PHASE_FAILED, clash)

    async def close(self, *, in_order: bool) -> None:
        """Take nothing more: the worker stops. In good order, a revision on trial was not tried: that the process ended
        is not held against it, and the next one begins with the last known good one as if it had never come."""
        tasks = [task for task in (self._trial, *self._applying) if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if tasks and in_order:  # without one, what lies there is of another process of this worker
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._files.clear_pending)

    def running_revision(self) -> RunningRevision | None:
        """What runs, for reports."""
        if self.running is None:
            return None
        config = self.running.config
        return RunningRevision(
            revision_id=config.revision_id,
            generation=config.generation,
            term=config.term,
            content_hash=config.content_hash,
        )

    def _may_repeat(self) -> bool:
        """The stored answer was a failure that another try may not have."""
        return self.last_attempt is not None and self.last_attempt.error.retryable

    async def _take(self, config: ConfigSpec) -> RevisionAttempt:
        try:
            revision = await self._prepared(config)
            await asyncio.to_thread(self._files.write_pending, config)
        except TroupeError as error:
            log.warning("revision refused", revision=config.revision_id, reason=error.reason, error=str(error))
            return self._record(config, status_pb2.APPLY_PHASE_ROLLED_BACK, error)
        except OSError as error:
            unwritable = Unavailable("CANNOT_PERSIST", f"cannot write the revision to disk ({error})")
            return self._record(config, status_pb2.APPLY_PHASE_ROLLED_BACK, unwritable)
        if self._trial is not None:
            self._trial.cancel()
        self.running, swapped = revision, self._clock.monotonic()
        try:
            await self._changed()
        except TroupeError as error:
            return await self._conclude(config, revision, error)
        except Exception as error:
            log.exception("revision cannot begin: a defect of the runtime", revision=config.revision_id)
            defect = Internal("BEGIN_FAILED", f"the revision cannot begin ({type(error).__name__})")
            return await self._conclude(config, revision, defect)
        if self._good is None:
            return await self._conclude(config, revision, self._healthy(swapped))
        self._trial = self._tasks.create_task(self._watch(config, revision, swapped))
        return self._record(config, status_pb2.APPLY_PHASE_PENDING)

    async def _prepared(self, config: ConfigSpec) -> Revision:
        """Raises TroupeErrors only: whatever a revision breaks, it breaks itself alone."""
        try:
            return await asyncio.to_thread(self._prepare, config)
        except TroupeError:
            raise
        except Exception as error:
            log.exception("revision cannot be prepared: a defect of the runtime", revision=config.revision_id)
            raise Internal("PREPARE_FAILED", f"the revision cannot be prepared ({type(error).__name__})") from error

    async def _watch(self, config: ConfigSpec, revision: Revision, swapped: float) -> None:
        wrong = None
        for _ in range(self._checks):
            await self._clock.sleep(self._window / self._checks)
            if (wrong := self._healthy(swapped)) is not None:
                break
        async with self._one_at_a_time:
            await self._conclude(config, revision, wrong)

    async def _conclude(self, config: ConfigSpec, revision: Revision, wrong: TroupeError | None) -> RevisionAttempt:
        if wrong is None:
            try:
                await asyncio.to_thread(self._files.promote, config)
            except OSError as error:
                wrong = Unavailable("CANNOT_PERSIST", f"cannot keep the revision on disk ({error})")
        if wrong is None:
            self._good = revision
            log.info("revision applied", revision=config.revision_id, generation=config.generation)
            return self._found(config, status_pb2.APPLY_PHASE_APPLIED)
        self.running = self._good
        log.warning("revision rolled back", revision=config.revision_id, reason=wrong.reason, error=str(wrong))
        attempt = self._found(config, status_pb2.APPLY_PHASE_ROLLED_BACK, wrong)
        try:
            await asyncio.to_thread(self._files.clear_pending)
            await self._changed()
        except (OSError, TroupeError) as error:
            log.error("cannot go back in full to the revision before", error=str(error))
        return attempt

    def _found(
        self, config: ConfigSpec, phase: ApplyPhase.ValueType, error: TroupeError | None = None
    ) -> RevisionAttempt:
        """How a trial ended. A newer revision that was refused meanwhile stays the last attempt."""
        attempt = _attempt(config, phase, error)
        if judge(self.last_attempt, config) is not Verdict.STALE:
            self.last_attempt = attempt
        return attempt

    def _record(
        self, config: ConfigSpec, phase: ApplyPhase.ValueType, error: TroupeError | None = None
    ) -> RevisionAttempt:
        self.last_attempt = _attempt(config, phase, error)
        return self.last_attempt


def _attempt(config: ConfigSpec, phase: ApplyPhase.ValueType, error: TroupeError | None = None) -> RevisionAttempt:
    attempt = RevisionAttempt(
        revision_id=config.revision_id,
        generation=config.generation,
        term=config.term,
        content_hash=config.content_hash,
        phase=phase,
    )
    if error is not None:
        attempt.error.CopyFrom(error.detail())
    return attempt


class RevisionFiles:
    """The last known good revision and the one on trial, on disk. All methods block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._good, self._pending = directory / "revision.good", directory / "revision.pending"

    def read(self) -> tuple[ConfigSpec | None, ConfigSpec | None]:
        """(good, pending), each None where there is none. Raises DataLoss for a file that is no revision."""
        return _read(self._good), _read(self._pending)

    def write_pending(self, config: ConfigSpec) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        fresh = self._pending.with_suffix(f".{os.getpid()}")  # another process of this worker may write as well
        with fresh.open("wb") as file:
            file.write(config.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._pending)
        self._sync()

    def promote(self, config: ConfigSpec) -> None:
        """This revision, which was on trial, is the last known good one now. A newer one that could not be written down
        whole may lie in its place."""
        if not self._pending.exists() or self._pending.read_bytes() != config.SerializeToString():
            self.write_pending(config)
        self._pending.replace(self._good)
        self._sync()

    def clear_pending(self) -> None:
        if self._pending.exists():
            self._pending.unlink()
            self._sync()

    def _sync(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(path: Path) -> ConfigSpec | None:
    try:
        return ConfigSpec.FromString(path.read_bytes()) if path.exists() else None
    except DecodeError as error:
        raise DataLoss("REVISION_BROKEN", f"{path} is no revision ({error}); remove it and apply again") from error
