"""The tables of `get` and `status`: which columns each thing has, and how its fields read."""

import time
from collections.abc import Iterable, Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from rich.text import Text

from troupe.chassis.wire import seconds
from troupe.cli import durations, names
from troupe.cli.output import printable, table, word
from troupe.resources.content import key
from troupe.resources.kinds import unpack
from troupe.v1 import agent_pb2, resource_pb2, status_pb2
from troupe.v1.control_plane_pb2 import RevisionInfo, WorkerStatus

_HEALTH = {
    status_pb2.HEALTH_STATE_HEALTHY: "green",
    status_pb2.HEALTH_STATE_DEGRADED: "yellow",
    status_pb2.HEALTH_STATE_DRAINING: "yellow",
    status_pb2.HEALTH_STATE_LOST: "red",
}
_SPEC_COLUMNS = {
    "Agent": ("MODEL", "TOOLS"),
    "Actor": ("ENTRY POINT",),
    "Model": ("BASE URL", "MODEL"),
    "Tool": ("SOURCE", "TIMEOUT"),
}


def resource_table(kind: str, resources: Iterable[resource_pb2.Resource]) -> Table:
    """Namespace, name and what matters of the kind's spec."""
    columns = ("NAMESPACE", "NAME", *_SPEC_COLUMNS.get(kind, ()), "DESCRIPTION")
    return table(columns, (_resource_row(resource) for resource in resources))


def revision_table(revisions: Iterable[RevisionInfo]) -> Table:
    """Newest first, as the server lists them."""
    columns = ("GENERATION", "REVISION", "RESOURCES", "AGE", "CONTENT", "")
    rows = (
        (
            str(one.generation),
            one.revision_id,
            str(one.resource_count),
            age(one.created_at),
            one.content_hash[:12],
            Text("current", style="green") if one.current else "",
        )
        for one in revisions
    )
    return table(columns, rows, right=("GENERATION", "RESOURCES"))


def session_table(sessions: Iterable[agent_pb2.Session]) -> Table:
    """By (shard, key), as the server lists them."""
    columns = ("SESSION", "STATE", "TURNS", "WAITING", "TOKENS", "UPDATED", "WORKER", "SHARD")
    rows = (
        (
            printable(names.shown(one.session)),
            word(agent_pb2.SessionState.Name(one.state), "SESSION_STATE_"),
            str(one.turns),
            str(one.waiting),
            str(one.usage.prompt_tokens + one.usage.completion_tokens),
            age(one.updated_at),
            one.worker_id or "-",
            str(one.shard),
        )
        for one in sessions
    )
    return table(columns, rows, right=("TURNS", "WAITING", "TOKENS", "SHARD"))


def worker_table(workers: Sequence[WorkerStatus]) -> Table:
    """Health, what runs, what was tried last, and the load of each."""
    columns = ("WORKER", "ADDRESS", "HEALTH", "RUNS", "LAST ATTEMPT", "SHARDS", "SESSIONS", "TURNS/S", "P99")
    return table(
        columns, (_worker_row(worker) for worker in workers), right=("RUNS", "SHARDS", "SESSIONS", "TURNS/S", "P99")
    )


def age(moment: Timestamp) -> str:
    """How long ago, in the unit that fits; `-` where it never was."""
    if not moment.seconds:
        return "-"
    passed = max(0.0, time.time() - seconds(moment))
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if passed >= 2 * size:
            return f"{passed / size:.0f}{unit}"
    return f"{passed:.0f}s"


def health(report: status_pb2.StatusReport) -> Text:
    """The state, and its cause unless all is well."""
    state = report.health.state
    if not state:
        return Text("-")
    name = word(status_pb2.HealthState.Name(state), "HEALTH_STATE_")
    return Text(f"{name}: {report.health.cause}" if report.health.cause else name, style=_HEALTH.get(state, ""))


def _resource_row(resource: resource_pb2.Resource) -> Sequence[str]:
    identity, spec = key(resource), unpack(resource)
    return identity.namespace, identity.name, *_spec_cells(spec), printable(getattr(spec, "description", ""))


def _spec_cells(spec: object) -> Sequence[str]:
    match spec:
        case resource_pb2.AgentSpec():
            return spec.model, ", ".join(spec.tools) or "-"
        case resource_pb2.ActorSpec():
            return (spec.entry_point,)
        case resource_pb2.ModelSpec():
            return spec.base_url or "(the worker's)", spec.model or "(the worker's)"
        case resource_pb2.ToolSpec():
            timeout = durations.shown(seconds(spec.timeout)) if spec.HasField("timeout") else "30 s"
            return spec.python.entry_point, timeout
        case _:
            return ()


def _worker_row(worker: WorkerStatus) -> Sequence[str | Text]:
    report = worker.report
    return (
        worker.worker_id,
        worker.address,
        health(report),
        str(report.running.generation) if report.HasField("running") else "-",
        _attempt(report.last_attempt) if report.HasField("last_attempt") else "-",
        str(sum(shard.state == status_pb2.SHARD_STATE_ACTIVE for shard in report.shards)),
        str(report.load.hot_sessions),
        f"{report.load.turns_per_second:.1f}",
        durations.shown(report.load.turn_latency_p99_seconds)
        if report.load.HasField("turn_latency_p99_seconds")
        else "-",
    )


def _attempt(attempt: status_pb2.RevisionAttempt) -> Text:
    phase = word(status_pb2.ApplyPhase.Name(attempt.phase), "APPLY_PHASE_")
    if attempt.phase in (status_pb2.APPLY_PHASE_APPLIED, status_pb2.APPLY_PHASE_PENDING):
        return Text(f"{attempt.generation} {phase}")
    why = ": ".join(part for part in (attempt.error.resource, attempt.error.message or attempt.error.reason) if part)
    return Text(f"{attempt.generation} {phase}: {why}", style="red")
