"""The settings of a worker."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

from pydantic import field_validator
from pydantic_settings import NoDecode

from troupe.chassis import servers
from troupe.chassis.access.settings import AccessSettings
from troupe.chassis.data import data_home
from troupe.chassis.settings import SecretStr, setting
from troupe.resources.validation import MAX_LABEL_BYTES, MAX_LABELS, NAME

WEIGHT: Final = "troupe.dev/weight"
"""The label that asks for a share of the shards."""
LIGHTEST: Final = 0.01
HEAVIEST: Final = 1_000.0


class DataPlaneSettings(AccessSettings):
    """Everything that a worker can be told. Durations are in seconds."""

    service: ClassVar[str] = "dataplane"

    listen: str = setting(default="127.0.0.1:7070", description="host:port for clients and the control plane")
    advertise: str = setting(
        default="", description="host:port that others reach this worker by; empty: the address it listens on"
    )
    server: Annotated[list[str], NoDecode] = setting(
        default=["127.0.0.1:7071"],
        description="host:port of the control plane, or of several, with commas between; the one that leads is found",
    )
    worker_id: str = setting(
        default="worker-0", description="stable name of this worker; a second process of that name takes its place"
    )
    label: Annotated[list[str], NoDecode] = setting(
        default=[],
        description=f"NAME=VALUE that is said of this worker; {WEIGHT}=NUMBER is its share of the shards beside the "
        "others', in place of what follows from processors and memory",
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
    memory_share: float = setting(
        default=0.8,
        gt=0,
        le=1,
        description="share of the memory that this worker may use from which on idle sessions leave it, those used "
        "longest ago first",
    )
    order_timeout: float = setting(
        default=30.0, gt=0, description="how long a session waits for a missing message before it passes it over"
    )
    drain_timeout: float = setting(
        default=20.0, ge=0, description="how long a stopping worker lets its running turns go on"
    )
    drain_patience: float = setting(
        default=10.0,
        ge=0,
        description="how long a stopping worker waits for the control plane to move its shards before it lets go of "
        "them by itself",
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

    @property
    def labels(self) -> dict[str, str]:
        """What `label` says."""
        return dict(_pair(label) for label in self.label)

    @field_validator("server", "label", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """`a,b` and [a, b] and [`a,b`] are the same."""
        if isinstance(value, str | list) and all(isinstance(one, str) for one in value):
            return [part.strip() for one in ([value] if isinstance(value, str) else value) for part in one.split(",")]
        return value

    @field_validator("server")
    @classmethod
    def _are_addresses(cls, value: list[str]) -> list[str]:
        return servers.addresses(",".join(value))

    @field_validator("worker_id")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("must be 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit")
        return value

    @field_validator("label")
    @classmethod
    def _are_labels(cls, value: list[str]) -> list[str]:
        if problem := next(_problems(value), ""):
            raise ValueError(problem)
        return value


def _pair(label: str) -> tuple[str, str]:
    name, _, value = label.partition("=")
    return name, value


def _problems(labels: list[str]) -> Iterator[str]:
    if len(labels) > MAX_LABELS:
        yield f"has {len(labels)} labels, at most {MAX_LABELS} are taken"
    for label in labels:
        name, value = _pair(label)
        if not name or "=" not in label or max(len(name.encode()), len(value.encode())) > MAX_LABEL_BYTES:
            yield f"needs NAME=VALUE, a name of 1 to {MAX_LABEL_BYTES} bytes and a value of no more"
        if name == WEIGHT and not _is_weight(value):
            yield f"{WEIGHT} must be a number from {LIGHTEST:g} to {HEAVIEST:g}, not {value!r}"


def _is_weight(text: str) -> bool:
    try:
        return LIGHTEST <= float(text) <= HEAVIEST
    except ValueError:
        return False
