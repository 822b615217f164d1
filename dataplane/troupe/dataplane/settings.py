"""The settings of a worker."""

import os
from pathlib import Path
from typing import ClassVar

from troupe.chassis.data import data_home
from troupe.chassis.service import ServiceSettings
from troupe.chassis.settings import SecretStr, setting


class DataPlaneSettings(ServiceSettings):
    """Everything that a worker can be told. Durations are in seconds."""

    service: ClassVar[str] = "dataplane"

    listen: str = setting(default="127.0.0.1:7070", description="host:port for clients and the control plane")
    advertise: str = setting(
        default="", description="host:port that others reach this worker by; empty: the address it listens on"
    )
    server: str = setting(default="127.0.0.1:7071", description="host:port of the control plane")
    worker_id: str = setting(
        default="worker-0", description="stable name of this worker; a second process of that name takes its place"
    )
    data: Path = setting(default_factory=data_home, description="directory of embedded stores and the last revision")
    broker: str = setting(
        default="",
        description="mailboxes: amqp://HOST, sqlite:///PATH or memory://; empty: broker.db in the data directory",
    )
    state: str = setting(
        default="",
        description="session state: redis://HOST, rediss://HOST (TLS), sqlite:///PATH or memory://; empty: state.db in "
        "the data directory",
    )
    allow_volatile_state: bool = setting(
        default=False, description="take a Redis that may lose what it confirmed, or that does not let this be checked"
    )
    blobs: str = setting(
        default="",
        description="payloads over 256 KiB, shared by all workers: file:///PATH or a URL of fsspec whose package is "
        "installed, such as s3://BUCKET/PREFIX; empty: blobs in the data directory",
    )
    llm: str = setting(
        default_factory=lambda: os.environ.get("OPENAI_BASE_URL", ""),
        description="base URL, with /v1, of the model endpoint that Models without baseUrl use; "
        "by default OPENAI_BASE_URL",
    )
    model: str = setting(default="", description="name of the model that Models without a name of their own use")
    llm_key: SecretStr = setting(
        default_factory=lambda: SecretStr(os.environ.get("OPENAI_API_KEY", "")),
        description="bearer token for that endpoint; by default OPENAI_API_KEY",
    )
    python_path: list[Path] = setting(
        default_factory=lambda: [Path()], description="directories to import tools and actors from, first found wins"
    )
    max_hot_sessions: int = setting(
        default=10_000, ge=1, description="sessions kept in memory; beyond it the least recently used idle ones go"
    )
    idle_after: float = setting(default=600.0, gt=0, description="an idle session leaves memory after this long")
    order_timeout: float = setting(
        default=30.0, gt=0, description="how long a session waits for a missing message before it passes it over"
    )
    drain_timeout: float = setting(
        default=20.0, ge=0, description="how long a stopping worker lets its running turns go on"
    )
    handover_timeout: float | None = setting(
        default=None,
        gt=0,
        description="how long a turn goes on after its shard was handed over, and a new owner waits for it; unset: as "
        "long as a turn may take",
    )
    unacked_budget: int = setting(
        default=256 * 1024 * 1024,
        ge=256 * 1024,
        description="bytes of message bodies that this worker holds unacked at most, over all its shards (one body of "
        "each in any case); when it gets more of them, the others may be over their part until what runs has ended",
    )
    health_checks: int = setting(
        default=3, ge=1, description="checks within health_window that a new revision must pass; the first takes one"
    )
    health_window: float = setting(default=10.0, ge=0, description="how long a new revision's health is watched")
    max_session_inbox: int = setting(
        default=10_000, ge=1, description="messages that may wait for one session before more are refused"
    )
    max_session_inbox_bytes: int = setting(
        default=64 << 20, ge=1, description="bytes of messages that may wait for one session before more are refused"
    )
    max_mailbox: int = setting(
        default=1_000_000, ge=1, description="messages that may wait for one shard's sessions before more are refused"
    )
    max_mailbox_bytes: int = setting(
        default=1 << 30,
        ge=1,
        description="bytes of messages that may wait for one shard's sessions before more are refused",
    )
