"""The settings of a control plane."""

from pathlib import Path
from typing import ClassVar, Self

from pydantic import model_validator

from troupe.chassis.data import data_home
from troupe.chassis.service import ServiceSettings
from troupe.chassis.settings import setting
from troupe.controlplane.placement import MAX_SHARDS


class ControlPlaneSettings(ServiceSettings):
    """Everything that a control plane can be told. Durations are in seconds."""

    service: ClassVar[str] = "controlplane"

    listen: str = setting(default="127.0.0.1:7071", description="host:port for users, tools and workers")
    data: Path = setting(default_factory=data_home, description="directory of the embedded store")
    store: str = setting(
        default="",
        description="revisions, placement, workers: sqlite:///PATH or memory://; "
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
        description="workers that share the shards: placed when this many have registered, and split anew when this "
        "number changes",
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
        default=600.0, gt=0, description="a worker that is lost for this long and owns no shard is forgotten"
    )
    apply_timeout: float = setting(
        default=60.0, gt=0, description="how long a worker may take to prepare a revision before it is tried again"
    )
    max_watchers: int = setting(default=2_000, ge=1, description="streams of WatchStatus at once")
    watcher_patience: float = setting(
        default=10.0, gt=0, description="a watcher that does not take a piece of status for this long is cut off"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.workers > min(self.shards, self.max_workers):
            raise ValueError("workers must not exceed shards or max_workers: each one needs a shard")
        if self.renew_after >= self.lease:
            raise ValueError("renew_after must be shorter than lease")
        return self
