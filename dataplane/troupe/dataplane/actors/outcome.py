"""How an attempt at a turn can end, and the running of one."""

import asyncio
import traceback
from dataclasses import dataclass

import structlog
from google.rpc import code_pb2
from opentelemetry.trace import SpanKind

from troupe.broker.addressing import SessionKey
from troupe.broker.envelope import check_size
from troupe.chassis import fault_points, tracing
from troupe.chassis.clock import Clock
from troupe.chassis.errors import DeadlineExceeded, Internal, NotFound, TroupeError
from troupe.chassis.wire import seconds
from troupe.dataplane.actors.batch import NoJournal
from troupe.dataplane.actors.behaviour import Behaviour, TurnContext, TurnResult
from troupe.dataplane.actors.journal import AttemptJournal
from troupe.dataplane.actors.turn import Turn
from troupe.dataplane.actors.world import World
from troupe.dataplane.state.errors import CancelRecorded, Fenced, VersionConflict
from troupe.dataplane.state.schedule import is_occurrence
from troupe.dataplane.state.session import Loaded, Owner, Record

STALE_AFTER = 23 * 3600.0
"""Seconds after which a message that never began is not begun: records of its copies may be forgotten soon."""
MAX_SAID = 1000
"""Bytes of what an agent or actor raised that are kept."""
MAX_STARTS = 3
"""Starts from the inbox without an end after which a message is taken to kill its worker."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Done:
    """The turn came to its reply."""

    result: TurnResult
    behaviour: Behaviour
    carrier: tracing.Carrier
    """Of the turn's span."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt ended in an error; whether it is tried again is the policy's to say."""

    error: TroupeError
    behaviour: Behaviour | None


@dataclass(frozen=True, slots=True)
class Expired:
    """The message did not start in time."""

    error: TroupeError


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A CANCEL ended it."""


@dataclass(frozen=True, slots=True)
class Suspended:
    """It waits for one of these promises, or, where there are none, for RESUME."""

    awaits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """There is nothing to do but to settle its number: a SKIP, or a copy of the message with this record."""

    of: Record | None = None


@dataclass(frozen=True, slots=True)
class Overtaken:
    """The store has the message otherwise: it was settled, or is tried again, without this attempt."""


@dataclass(frozen=True, slots=True)
class CalledOff:
    """It was not to start any more, and did not: the shard is being handed over."""


Outcome = Done | Failed | Expired | Cancelled | Suspended | Skipped | Overtaken | CalledOff


class TurnRaised(Internal):
    """Code of an agent or actor raised something that says nothing of itself; another attempt may fare better."""

    code = code_pb2.INTERNAL
    retryable = True


class WorkerKilled(TroupeError):
    """The message was started and never came to an end, too often."""

    code = code_pb2.ABORTED


class MessageExpired(TroupeError):
    """The message waited longer than it was good for."""

    code = code_pb2.DEADLINE_EXCEEDED


async def attempt(world: World, owner: Owner, key: SessionKey, turn: Turn, loaded: Loaded) -> Outcome:
    """Run one attempt. Raises Fenced when another owns the session's shard."""
    if (hopeless := judge(turn, world.clock.now())) is not None:
        return hopeless
    behaviour = world.behaviour(key)
    if behaviour is None:
        return Failed(
            NotFound("UNKNOWN_TARGET", f"no agent or actor {key.namespace}/{key.agent} in the running revision"), None
        )
    if not turn.start():
        return CalledOff()
    for each in turn.all:
        each.events.started(world.worker_id, behaviour.revision_id, continues=each.continues)
    context = context_of(world, owner, key, turn, loaded)
    try:
        fault_points.reach("turn.before")
        result, carrier = await _run(behaviour, context, turn, world.clock)
        fault_points.reach("turn.after")
        _check(result, turn)
        return Done(result, behaviour, carrier)
    except Exception as error:
        match cause_of(error):
            case Fenced() as fenced:
                raise fenced from None
            case CancelRecorded():
                return Cancelled()
            case VersionConflict():
                return Overtaken()
            case _ if turn.cancelled:
                return Cancelled()
            case _ if turn.suspended:
                return Suspended(turn.awaits)
            case TroupeError() as cause:
                # Code of agents and actors raises such ones too, with texts of its own.
                cause.args = (sayable(str(cause)),)
                cause.reason, cause.resource = sayable(cause.reason), sayable(cause.resource)
                return Failed(cause, behaviour)
            case cause:
                log.warning(
                    "turn raised",
                    agent=key.agent,
                    session=key.session,
                    attempt=turn.attempt,
                    error=said(cause),
                    where=where(cause),
                )
                return Failed(TurnRaised("TURN_RAISED", f"{key.agent} raised {said(cause)}"), behaviour)


def _check(result: TurnResult, turn: Turn) -> None:
    if len(result.replies) != len(turn.batch):
        raise Internal(
            "REPLIES_MISSING", f"a turn of {len(turn.batch) + 1} messages gave {len(result.replies) + 1} replies"
        )
    for reply in (result.reply, *result.replies):
        check_size(reply)


def context_of(world: World, owner: Owner, key: SessionKey, turn: Turn, loaded: Loaded) -> TurnContext:
    """What the attempt is given."""
    journal = NoJournal() if turn.batch else AttemptJournal(world, owner, key, turn)
    return TurnContext(
        key=key,
        message=turn.envelope,
        attempt=turn.attempt,
        state=loaded.state,
        snapshot=loaded.snapshot,
        history=loaded.history,
        journal=journal,
        events=turn.events,
        ledger=turn.ledger,
        suspend=journal.suspend,
        batch=[other.envelope for other in turn.batch],
        cancelled=lambda: turn.cancelled,
    )


def cause_of(error: Exception) -> Exception:
    """What ended the turn, where parts of it ran side by side: what the runtime says of it, before anything else."""
    if not isinstance(error, ExceptionGroup):
        return error
    causes = [cause_of(each) for each in error.exceptions]
    for kind in (Fenced, CancelRecorded, VersionConflict, TroupeError):
        if (found := next((cause for cause in causes if isinstance(cause, kind)), None)) is not None:
            return found
    return causes[0]


def said(error: BaseException) -> str:
    """The error as one line that can be stored and sent, whatever it says."""
    return sayable(" ".join(f"{type(error).__name__}: {error}".split()))


def sayable(text: str) -> str:
    """The text as it can be stored and sent, whatever code has made of it."""
    return text.encode(errors="replace")[:MAX_SAID].decode(errors="ignore")


def judge(turn: Turn, now: float) -> Outcome | None:
    """What ends the message before it starts; expiry only before its first start. A redriven one finds the journal of
    its earlier life, and every start of its own was counted."""
    if turn.cancelled:
        return Cancelled()
    if turn.entry.starts >= MAX_STARTS:
        error = WorkerKilled(
            "WORKER_KILLED", f"message {turn.message_id} was started {turn.entry.starts} times and never ended"
        )
        return Failed(error, None)
    began = turn.entry.attempts > 0 or (bool(turn.journal) and not turn.entry.redriven)
    if not began and (late := _late(turn, now)) is not None:
        return Expired(late)
    return None


async def _run(
    behaviour: Behaviour, context: TurnContext, turn: Turn, clock: Clock
) -> tuple[TurnResult, tracing.Carrier]:
    sender = tracing.Carrier(turn.envelope.traceparent, turn.envelope.tracestate)
    if not tracing.recording() and not sender.traceparent:
        return await _in_time(behaviour, context, turn, clock), sender
    parent = tracing.context(*sender)
    with tracing.tracer().start_as_current_span(
        f"turn {context.key.agent}",
        context=parent,
        kind=SpanKind.CONSUMER,
        links=tracing.links(parent),
        attributes={
            "messaging.system": "troupe",
            "messaging.operation.name": "turn",
            "messaging.operation.type": "process",
            "messaging.message.id": turn.message_id,
            "troupe.agent": context.key.agent,
            "troupe.session": context.key.session,
            "troupe.message": turn.message_id,
            "troupe.attempt": turn.attempt,
        },
    ):
        return await _in_time(behaviour, context, turn, clock), tracing.carrier()


async def _in_time(behaviour: Behaviour, context: TurnContext, turn: Turn, clock: Clock) -> TurnResult:
    try:
        async with asyncio.timeout(behaviour.deadline) as scope:
            turn.acts(scope, clock.monotonic() + behaviour.deadline)
            return await _contained(behaviour, context)
    except TimeoutError as error:
        if turn.cancelled or turn.suspended or not scope.expired():
            raise
        raise DeadlineExceeded(
            "TURN_DEADLINE", f"the turn took longer than its deadline of {behaviour.deadline:g} s"
        ) from error
    finally:
        turn.has_acted(clock.monotonic())
        if turn.abandoned:
            # Its code may have swallowed that, and come to an end long after somebody else has its message.
            raise asyncio.CancelledError


async def _contained(behaviour: Behaviour, context: TurnContext) -> TurnResult:
    """What ends a task or the process is here code of an agent or actor that raised it, unless we are cancelled."""
    try:
        return await behaviour.run(context)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise TurnRaised("TURN_RAISED", f"{context.key.agent} was cancelled from within") from error
    except SystemExit as error:
        raise TurnRaised("TURN_RAISED", f"{context.key.agent} raised {said(error)}") from error


def _late(turn: Turn, now: float) -> TroupeError | None:
    if is_occurrence(turn.number):
        return None  # nobody sends it twice, and it comes late where nobody could run it
    first_sent = seconds(turn.envelope.first_sent)
    if turn.envelope.HasField("expires") and now >= turn.expires:
        return MessageExpired("EXPIRED", f"the message was to start within {turn.expires - first_sent:g} s")
    if now - first_sent > STALE_AFTER:
        return MessageExpired("STALE", "the message was sent more than 23 hours ago")
    return None


def where(error: BaseException) -> str:
    """The innermost lines that it came through. Not the whole traceback: what it holds of values has no bound, and
    formatting it would hold up the loop."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    return " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))
