"""The tables of `get` and `status`: which columns each thing has, and how its fields read."""

import time
from collections.abc import Iterable, Mapping, Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from rich.text import Text

from troupe.chassis.wire import seconds
from troupe.cli import durations, names, rollout
from troupe.cli.output import printable, table, word
from troupe.resources.content import key
from troupe.resources.kinds import unpack
from troupe.v1 import agent_pb2, resource_pb2, status_pb2
from troupe.v1.control_plane_pb2 import RevisionInfo, WorkerStatus
from troupe.v1.rollout_pb2 import RolloutStage

_HEALTH = {
    status_pb2.HEALTH_STATE_HEALTHY: "green",
    status_pb2.HEALTH_STATE_DEGRADED: "yellow",
    status_pb2.HEALTH_STATE_DRAINING: "yellow",
    status_pb2.HEALTH_STATE_LOST: "red",
}
_STAGES = {
    RolloutStage.ROLLOUT_STAGE_COMPLETE: "green",
    RolloutStage.ROLLOUT_STAGE_HALTED: "red",
    RolloutStage.ROLLOUT_STAGE_ROLLING_BACK: "red",
    RolloutStage.ROLLOUT_STAGE_ROLLED_BACK: "red",
    RolloutStage.ROLLOUT_STAGE_SUPERSEDED: "dim",
    RolloutStage.ROLLOUT_STAGE_CANARY: "yellow",
    RolloutStage.ROLLOUT_STAGE_ROLLING: "yellow",
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


def revision_table(revisions: Iterable[RevisionInfo], kept: Iterable[RevisionInfo]) -> Table:
    """In their order, with how each fared, and which of those that are kept leads away from which."""
    columns = ("GENERATION", "STAGE", "AGE", "RESOURCES", "WORKERS", "PARENT", "REVISION", "CONTENT", "")
    generations = {one.revision_id: str(one.generation) for one in kept}
    rows = (
        (
            str(one.generation),
            Text(rollout.stage(one.rollout) or "-", style=_STAGES.get(one.rollout.stage, "")),
            age(one.created_at),
            str(one.resource_count),
            rollout.summed(rollout.stands(one, ())) or "-",
            generations.get(one.parent_revision_id, one.parent_revision_id or "-"),
            one.revision_id,
            one.content_hash[:12],
            _relations(one, generations),
        )
        for one in revisions
    )
    return table(columns, rows, right=("GENERATION", "RESOURCES", "PARENT"))


def outcome_table(revision: RevisionInfo) -> Table:
    """How each worker fared with the revision."""
    rows = (
        (one.worker_id, f"{one.phase}{', canary' if one.worker_id in _canaries(revision) else ''}", one.reason)
        for one in rollout.stands(revision, ())
    )
    return table(("WORKER", "PHASE", ""), rows)


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


def worker_table(workers: Sequence[WorkerStatus], generations: Mapping[str, int], *, wide: bool = False) -> Table:
    """Health, what runs and what is to run in its place, what was tried last, and the load of each; `wide` with the
    process and its weight, and what is to run in a column of its own. `generations` of revisions by id."""
    columns = ["WORKER", "ADDRESS", "HEALTH", "RUNS", "LAST ATTEMPT", "SHARDS", "SESSIONS", "TURNS/S", "P99"]
    if wide:
        columns[4:4] = ["WANTED"]
        columns[2:2] = ["INSTANCE", "WEIGHT"]
    return table(
        columns,
        (_worker_row(worker, generations, wide=wide) for worker in workers),
        right=("WEIGHT", "RUNS", "WANTED", "SHARDS", "SESSIONS", "TURNS/S", "P99"),
    )


def age(moment: Timestamp) -> str:
    """How long ago, in the unit that fits; `-` where it never was."""
    return span(time.time() - seconds(moment)) if moment.seconds else "-"


def span(length: float) -> str:
    """So many seconds, in the unit that fits."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if length >= 2 * size:
            return f"{length / size:.0f}{unit}"
    return f"{max(0.0, length):.0f}s"


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


def _worker_row(worker: WorkerStatus, generations: Mapping[str, int], *, wide: bool) -> Sequence[str | Text]:
    report = worker.report
    runs = str(report.running.generation) if report.HasField("running") else "-"
    wanted = worker.wanted_revision_id
    to_run = str(generations.get(wanted, wanted)) if wanted else "-"
    under_way = wanted not in ("", report.running.revision_id)
    style = "yellow" if under_way else ""
    return (
        worker.worker_id,
        worker.address,
        *((report.instance_id or "-", f"{worker.weight:.3g}" if worker.weight else "-") if wide else ()),
        health(report),
        *((runs, Text(to_run, style)) if wide else (Text(f"{runs} → {to_run}" if under_way else runs, style),)),
        _attempt(report.last_attempt) if report.HasField("last_attempt") else "-",
        str(sum(shard.state == status_pb2.SHARD_STATE_ACTIVE for shard in report.shards)),
        str(report.load.hot_sessions),
        f"{report.load.turns_per_second:.1f}",
        durations.shown(report.load.turn_latency_p99_seconds)
        if report.load.HasField("turn_latency_p99_seconds")
        else "-",
    )


def _relations(revision: RevisionInfo, generations: Mapping[str, str]) -> Text:
    of, by = revision.rollout.rollback_of_revision_id, revision.rollout.rolled_back_by_revision_id
    relations = [
        *(["current"] if revision.current else []),
        *([f"way back from {generations.get(of, of)}"] if of else []),
        *([f"rolled back by {generations.get(by, by)}"] if by else []),
    ]
    return Text(", ".join(relations), style="green" if revision.current else "")


def _canaries(revision: RevisionInfo) -> set[str]:
    return {one.worker_id for one in revision.rollout.workers if one.canary}


def _attempt(attempt: status_pb2.RevisionAttempt) -> Text:
    phase = word(status_pb2.ApplyPhase.Name(attempt.phase), "APPLY_PHASE_")
    if attempt.phase in (status_pb2.APPLY_PHASE_APPLIED, status_pb2.APPLY_PHASE_PENDING):
        return Text(f"{attempt.generation} {phase}")
    why = ": ".join(part for part in (attempt.error.resource, attempt.error.message or attempt.error.reason) if part)
    return Text(f"{attempt.generation} {phase}: {why}", style="red")
