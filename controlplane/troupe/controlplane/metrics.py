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
WORKERS = Gauge("troupe_controlplane_workers", "Workers known, by state: alive, lost", ["state"])
WATCHERS = Gauge("troupe_controlplane_watchers", "Streams of WatchStatus that are open")
SLOW_WATCHERS = Counter(
    "troupe_controlplane_slow_watchers_total", "Streams of WatchStatus that were closed as too slow"
)
