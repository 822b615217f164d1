"""What the control plane counts."""

from prometheus_client import Counter, Gauge

SYNCS = Counter(
    "troupe_controlplane_syncs_total", "Syncs by outcome: accepted, repeated, validated, refused", ["outcome"]
)
GENERATION = Gauge("troupe_controlplane_generation", "Generation of the newest revision, 0 before the first")
PLACEMENT_VERSION = Gauge("troupe_controlplane_placement_version", "Version of the placement, 0 before the first")
APPLIES = Counter(
    "troupe_controlplane_applies_total", "Revisions brought to workers, by how they took them", ["outcome"]
)
PARKED = Gauge("troupe_controlplane_parked_workers", "Workers that refused for good the revision that they are to run")
ROLLOUTS = Counter("troupe_controlplane_rollouts_total", "Rollouts that came to a stage, by stage", ["stage"])
ROLLOUT = Gauge(
    "troupe_controlplane_rollout_workers",
    "Workers in the newest revision's rollout: waiting, pending, applied, failed",
    ["outcome"],
)
WORKERS = Gauge("troupe_controlplane_workers", "Workers known, by state: alive, draining, lost", ["state"])
LEASES_ENDED = Counter(
    "troupe_controlplane_leases_ended_total",
    "Leases that ended, by why: silent for the lease, refused where nobody listened any more",
    ["why"],
)
MOVES = Counter("troupe_controlplane_moves_total", "Shards given to another owner than before")
REVOKES = Gauge("troupe_controlplane_revoked_shards", "Shards that their owners are to hand over and have not yet")
STUCK = Counter("troupe_workers_stuck", "Workers that answered and did not work, and lost their shards to others.")
OVERDUE = Counter(
    "troupe_controlplane_overdue_shards_total", "Shards given away because their owner did not release them in time"
)
LEADER = Gauge("troupe_controlplane_leader", "1 in the control plane that leads, 0 in one that stands by")
TERM = Gauge("troupe_controlplane_term", "The leader's term, as far as this control plane knows")
WATCHERS = Gauge("troupe_controlplane_watchers", "Streams of WatchStatus that are open")
SLOW_WATCHERS = Counter(
    "troupe_controlplane_slow_watchers_total", "Streams of WatchStatus that were closed as too slow"
)
