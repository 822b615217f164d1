"""The settings of a control plane."""

from pathlib import Path
from typing import ClassVar, Self

from pydantic import model_validator

from troupe.chassis.access.settings import AccessSettings
from troupe.chassis.address import Address
from troupe.chassis.data import data_home
from troupe.chassis.settings import setting
from troupe.controlplane.placement import MAX_SHARDS


class ControlPlaneSettings(AccessSettings):
    """Everything that a control plane can be told. Durations are in seconds."""

    service: ClassVar[str] = "controlplane"

    listen: str = setting(default="127.0.0.1:7071", description="host:port for users, tools and workers")
    advertise: str = setting(
        default="", description="host:port where others reach this control plane while it leads; empty: as it listens"
    )
    data: Path = setting(default_factory=data_home, description="directory of the embedded store")
    store: str = setting(
        default="",
        description="revisions, placement, workers: redis://HOST, rediss://HOST (TLS), sqlite:///PATH or memory://; "
        "empty: controlplane.db in the data directory",
    )
    shards: int = setting(
        default=128,
        ge=1,
        le=MAX_SHARDS,
        description="shards that sessions are spread over, fixed when the store is created; about ten times the most "
        "workers expected",
    )
    workers: int = setting(
        default=1,
        ge=1,
        le=1_000,
        description="workers that must have registered before shards are placed for the first time; after that, who "
        "joins and who leaves decides",
    )
    max_workers: int = setting(
        default=1_000, ge=1, description="workers known at once, lost ones included; bounds what strangers can fill"
    )
    lease: float = setting(
        default=10.0, gt=0, description="a worker counts as lost when nothing was heard of it for this long"
    )
    renew_after: float = setting(
        default=3.0, gt=0, description="how often workers register again: three times within a lease"
    )
    forget_after: float = setting(
        default=600.0,
        gt=0,
        description="a worker that is lost for this long and owns no shard is forgotten; one that drained is at once",
    )
    release_timeout: float = setting(
        default=30.0,
        gt=0,
        description="how long an owner that is alive may take to hand a shard over; then another gets it all the same, "
        "and the old owner's writes are refused",
    )
    stuck_after: float = setting(
        default=30.0,
        gt=0,
        description="a worker that answers loses its shards when something that could run there was held up for this "
        "long and nothing was settled, while others get on; below 25 what is down for all may look like one worker's",
    )
    apply_timeout: float = setting(
        default=60.0, gt=0, description="how long a worker may take to prepare a revision before it is tried again"
    )
    leader_lease: float = setting(
        default=15.0, gt=0, description="another control plane leads when the leader gave no sign of life for this long"
    )
    leader_renew_deadline: float = setting(
        default=10.0, gt=0, description="a leader that could not renew for this long stops, before another one leads"
    )
    leader_retry: float = setting(
        default=2.0, gt=0, description="how often the leader renews, and those that stand by look"
    )
    max_watchers: int = setting(default=2_000, ge=1, description="streams of WatchStatus at once")
    watcher_patience: float = setting(
        default=10.0, gt=0, description="a watcher that does not take a piece of status for this long is cut off"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.advertise:
            Address.parse(self.advertise)
        if self.workers > min(self.shards, self.max_workers):
            raise ValueError("workers must not exceed shards or max_workers: each one needs a shard")
        if self.renew_after >= self.lease:
            raise ValueError("renew_after must be shorter than lease")
        if not self.leader_retry < self.leader_renew_deadline < self.leader_lease:
            raise ValueError("leader_retry must be shorter than leader_renew_deadline, and that than leader_lease")
        return self
