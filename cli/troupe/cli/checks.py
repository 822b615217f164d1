"""The checks of `troupe doctor`, each a line: what, how it is, and what to do about it."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from troupe.chassis.errors import InvalidArgument, TroupeError
from troupe.cli import clients, endpoints, model_endpoint
from troupe.cli.endpoints import Endpoints
from troupe.cli.output import counted

OLDEST_PYTHON = (3, 11)
STORES_PATIENCE = 5.0
"""Seconds that a broker gets to answer."""


class Verdict(Enum):
    """How a check went. Only FAIL makes the command fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    verdict: Verdict
    what: str
    detail: str


def python() -> Check:
    """The interpreter is new enough."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info >= OLDEST_PYTHON:
        return Check(Verdict.OK, "python", version)
    return Check(Verdict.FAIL, "python", f"{version}; troupe needs 3.11 or newer")


def data_directory(data: Path) -> Check:
    """What `troupe up` keeps can be written."""
    place = next(one for one in (data, *data.absolute().parents) if one.exists())
    if not place.is_dir():
        return Check(Verdict.FAIL, "data directory", f"{place} is no directory; name another with TROUPE_DATA")
    if not os.access(place, os.W_OK | os.X_OK):
        return Check(Verdict.FAIL, "data directory", f"cannot write in {place}; name another with TROUPE_DATA")
    return Check(Verdict.OK, "data directory", str(data) if place == data else f"{data} (made when needed)")


async def broker(environment: Mapping[str, str]) -> Check:
    """Mailboxes are where TROUPE_BROKER says, on a server that can be trusted with them."""
    url = environment.get("TROUPE_BROKER", "")
    if not url.startswith(("amqp://", "amqps://")):
        return _embedded("mailboxes", "TROUPE_BROKER", url)
    from troupe.broker.rabbitmq.examination import examined

    try:
        found = await examined(url, STORES_PATIENCE)
    except TroupeError as error:
        return Check(Verdict.FAIL, "mailboxes", str(error))
    if found.warnings:
        return Check(Verdict.WARN, "mailboxes", "; ".join(found.warnings))
    return Check(Verdict.OK, "mailboxes", f"RabbitMQ {found.version} at {found.shown}")


async def state(environment: Mapping[str, str]) -> Check:
    """Sessions are where TROUPE_STATE says, on a server that keeps what it confirms."""
    url = environment.get("TROUPE_STATE", "")
    if not url.startswith(("redis://", "rediss://")):
        return _embedded("session state", "TROUPE_STATE", url)
    from troupe.chassis.redis_address import address
    from troupe.dataplane.settings import DataPlaneSettings
    from troupe.dataplane.state.connect import connected

    try:
        volatile = DataPlaneSettings.load({}).allow_volatile_state
        async with connected(url, allow_volatile=volatile):
            shown = f"Redis at {address(url, 'state store').shown}"
    except TroupeError as error:
        return Check(Verdict.FAIL, "session state", str(error))
    if volatile:
        return Check(Verdict.WARN, "session state", f"{shown}; whether it keeps what it confirms was not looked at")
    return Check(Verdict.OK, "session state", shown)


def _embedded(what: str, variable: str, url: str) -> Check:
    if not url:
        return Check(Verdict.OK, what, "SQLite in the data directory")
    if url == "memory://":
        return Check(Verdict.WARN, what, f"{variable} names memory://, which is gone when the process ends")
    if url.startswith("sqlite:///"):
        return Check(Verdict.OK, what, url)
    scheme = url.partition(":")[0]
    return Check(Verdict.FAIL, what, f"{variable} names {scheme}://, which nothing here serves; see `troupe up --help`")


def fleet_expected(data: Path, named: Endpoints) -> bool:
    """Whether a fleet ought to answer: its addresses are named, or `troupe up` says that it runs."""
    return named != Endpoints() or endpoints.read(data) is not None


async def control_plane(address: str, *, required: bool) -> Check:
    """It answers; which revision is current."""
    try:
        async with clients.control_plane(address) as client:
            revision = (await client.current()).revision
    except TroupeError as error:
        return Check(Verdict.FAIL if required else Verdict.WARN, "control plane", str(error))
    now = f"revision {revision.generation}" if revision.revision_id else "no revision yet; `troupe apply` makes one"
    return Check(Verdict.OK, "control plane", f"{address}, {now}")


async def worker(address: str, *, required: bool) -> Check:
    """It answers clients."""
    try:
        async with clients.gateway(address) as client:
            sessions = await client.sessions()
    except TroupeError as error:
        return Check(Verdict.FAIL if required else Verdict.WARN, "worker", str(error))
    return Check(Verdict.OK, "worker", f"{address}, {counted(len(sessions), 'session')}")


def model(environment: Mapping[str, str]) -> Check:
    """The endpoint that the environment names lists its models, and the one wanted is among them. Blocks."""
    try:
        endpoint = model_endpoint.named(None, None, environment)
    except InvalidArgument as error:
        return Check(Verdict.FAIL, "model endpoint", str(error))
    if endpoint is None:
        return Check(
            Verdict.OK, "model endpoint", "none named: `troupe up` uses its simulator; name one with TROUPE_LLM"
        )
    import urllib.error

    try:
        models = model_endpoint.served(endpoint.url, endpoint.key)
    except urllib.error.HTTPError as error:
        key = "; check TROUPE_LLM_KEY or OPENAI_API_KEY" if error.code in (401, 403) else "; check the URL, with /v1"
        return Check(Verdict.FAIL, "model endpoint", f"{endpoint.url}/models answers {error.code} {error.reason}{key}")
    except (OSError, ValueError) as error:
        cause = getattr(error, "reason", error)
        why = getattr(cause, "strerror", None) or cause
        return Check(
            Verdict.FAIL, "model endpoint", f"{endpoint.url} does not answer ({why}); start it or check the URL"
        )
    if endpoint.model not in models:
        known = ", ".join(models[:5]) or "none"
        return Check(Verdict.WARN, "model endpoint", f"{endpoint.url} lists {known}, not {endpoint.model}; see --model")
    return Check(Verdict.OK, "model endpoint", f"{endpoint.model} at {endpoint.url}")
