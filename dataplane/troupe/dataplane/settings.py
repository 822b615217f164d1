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
        default="", description="mailboxes: sqlite:///PATH or memory://; empty: broker.db in the data directory"
    )
    state: str = setting(
        default="", description="session state: sqlite:///PATH or memory://; empty: state.db in the data directory"
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
    health_checks: int = setting(
        default=3, ge=1, description="checks within health_window that a new revision must pass; the first takes one"
    )
    health_window: float = setting(default=10.0, ge=0, description="how long a new revision's health is watched")
    max_session_inbox: int = setting(
        default=10_000, ge=1, description="messages that may wait for one session before more are refused"
    )
    max_mailbox: int = setting(
        default=1_000_000, ge=1, description="messages that may wait in one shard's mailbox before more are refused"
    )
