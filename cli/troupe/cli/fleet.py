"""A whole fleet in this process: control plane, one worker and, where no model endpoint is named, the simulator."""

import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from troupe.chassis import logs, metrics
from troupe.chassis.settings import SecretStr
from troupe.cli import endpoints, joining
from troupe.cli.endpoints import Endpoints
from troupe.cli.model_endpoint import ModelEndpoint
from troupe.controlplane import process as controlplane
from troupe.controlplane.settings import ControlPlaneSettings
from troupe.dataplane import process as dataplane
from troupe.dataplane.settings import DataPlaneSettings
from troupe.llm_sim import process as llm_sim
from troupe.llm_sim.settings import LlmSimSettings

DRAIN_TIMEOUT = 1.0
"""Seconds that running turns go on after Ctrl-C, unless the setting is given: the next start takes them up again."""


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """The settings of each service. `model` is the endpoint that was named; None means the simulator."""

    controlplane: ControlPlaneSettings
    dataplane: DataPlaneSettings
    simulator: LlmSimSettings
    model: ModelEndpoint | None

    @classmethod
    def load(
        cls, data: Path, model: ModelEndpoint | None, worker: Mapping[str, Any], workers: int | None = None
    ) -> "FleetSettings":
        """`worker` are flags for the worker, `workers` how many share the shards; None where not given. Raises
        InvalidArgument as `Settings.load` does, and where several workers would share nothing."""
        settings = DataPlaneSettings.load({"data": data, **worker})
        if "drain_timeout" not in settings.model_fields_set:
            settings = settings.model_copy(update={"drain_timeout": DRAIN_TIMEOUT})
        with _without("TROUPE_LISTEN", "TROUPE_METRICS_LISTEN"):
            control_plane = ControlPlaneSettings.load({"data": data, "metrics_listen": "", "workers": workers})
            simulator = LlmSimSettings.load({"metrics_listen": ""})
        joining.check_shared(control_plane.workers, settings.broker, settings.state)
        return cls(control_plane, settings, simulator, model)


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet that serves. `model` says in words where its answers come from; `metrics` is a URL, or empty."""

    endpoints: Endpoints
    llm: ModelEndpoint
    model: str
    metrics: str
    data: Path


@contextlib.asynccontextmanager
async def running(settings: FleetSettings) -> AsyncIterator[Fleet]:
    """Serve until the body is left. Raises FailedPrecondition where the data directory is in use, naming by whom, or
    an address that was asked for is taken; other ports move on to a free one. A service that fails ends the body.

    While it runs, `endpoints.json` in the data directory names the addresses.
    """
    data = settings.dataplane.data
    async with contextlib.AsyncExitStack() as services:
        scraped = services.enter_context(metrics.exposing(settings.dataplane))
        with logs.within("controlplane"):
            control_plane = await services.enter_async_context(controlplane.running(settings.controlplane))
        model = settings.model
        if model is None:
            with logs.within("llm-sim"):
                simulator = await services.enter_async_context(llm_sim.running(settings.simulator))
            model = ModelEndpoint(simulator.url, settings.simulator.models[0], "")
        worker = settings.dataplane.model_copy(
            update={
                "server": [control_plane.address],
                "llm": model.url,
                "model": model.model,
                "llm_key": SecretStr(model.key),
            }
        )
        with logs.within("dataplane"):
            gateway = await services.enter_async_context(dataplane.running(worker))
        found = Endpoints(control_plane.address, gateway.address)
        endpoints.write(data, found)
        services.callback(endpoints.remove, data)
        source = f"{model.model} at {model.url}" if settings.model else f"the built-in simulator at {model.url}"
        yield Fleet(found, model, source, f"http://{scraped}/metrics" if scraped else "", data)


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    """Hide variables of the environment: in one process these are the worker's alone, and the other services would
    take them for theirs."""
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
