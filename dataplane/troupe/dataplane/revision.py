"""A revision made ready to run: every resource resolved, imported and compiled, or none."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from troupe.broker.addressing import DEFAULT, SessionKey
from troupe.broker.retry import RetryPolicy
from troupe.chassis.clock import Clock
from troupe.chassis.errors import FailedPrecondition, InvalidArgument
from troupe.chassis.settings import SecretStr
from troupe.chassis.wire import seconds
from troupe.dataplane.actors.behaviour import Behaviour
from troupe.dataplane.agent.config import AgentConfig, by_name
from troupe.dataplane.behaviours import actor
from troupe.dataplane.behaviours.actor import ActorBehaviour
from troupe.dataplane.behaviours.agent import AgentBehaviour
from troupe.dataplane.behaviours.state import StateForm
from troupe.dataplane.llm.client import LlmConnections, ModelClient
from troupe.dataplane.llm.endpoint import ModelEndpoint, ModelTimeouts
from troupe.dataplane.state.session import RETENTION
from troupe.dataplane.tools import registry
from troupe.dataplane.tools.executor import InProcessExecutor
from troupe.dataplane.tools.tool import Tool
from troupe.resources.kinds import unpack
from troupe.v1.resource_pb2 import (
    UNKNOWN_OUTCOME_POLICY_PROMISE,
    ActorSpec,
    AgentSpec,
    ConfigSpec,
    Metadata,
    ModelSpec,
    Resource,
    SecretRef,
    ToolSpec,
)
from troupe.v1.resource_pb2 import (
    RetryPolicy as RetrySpec,
)

T = TypeVar("T")
TURN_DEADLINE: Final = 600.0
MAX_BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The worker's own model endpoint, for Models that name none."""

    llm: str = ""
    model: str = ""
    key: SecretStr = field(default=SecretStr(""))


@dataclass(frozen=True)
class Revision:
    """What a worker runs. Immutable."""

    config: ConfigSpec
    behaviours: Mapping[tuple[str, str], Behaviour]
    """By (namespace, name)."""

    labels: Mapping[tuple[str, str], Mapping[str, str]]
    """Those of each agent and actor, by (namespace, name)."""

    def behaviour(self, key: SessionKey) -> Behaviour | None:
        return self.behaviours.get((key.namespace, key.agent))


def prepare(config: ConfigSpec, connections: LlmConnections, endpoint: Endpoint, clock: Clock) -> Revision:
    """Make `config` ready. Imports modules, so it may block. Raises TroupeErrors that name the resource at fault."""
    return _Preparation(config, connections, endpoint, clock).revision()


class _Preparation:
    def __init__(self, config: ConfigSpec, connections: LlmConnections, endpoint: Endpoint, clock: Clock) -> None:
        self._config, self._connections, self._endpoint, self._clock = config, connections, endpoint, clock
        self._executor = InProcessExecutor()

    def revision(self) -> Revision:
        for found in self._config.resources:
            unpack(found)
        models = {_name(found.metadata): self._model(found) for found in self._of("Model")}
        tools = {_name(found.metadata): self._tool(found) for found in self._of("Tool")}
        for name, tool in tools.items():
            _check_compensation(tool, _compensation(tool, name, tools))
        behaviours: dict[tuple[str, str], Behaviour] = {}
        for found in self._of("Agent"):
            behaviours[_name(found.metadata)] = self._agent(found, models, tools)
        for found in self._of("Actor"):
            behaviours[_name(found.metadata)] = self._actor(found, tools)
        labels = {
            _name(found.metadata): dict(found.metadata.labels)
            for kind in ("Agent", "Actor")
            for found in self._of(kind)
        }
        return Revision(self._config, behaviours, labels)

    def _of(self, kind: str) -> list[Resource]:
        return [found for found in self._config.resources if found.kind == kind]

    def _model(self, found: Resource) -> ModelClient:
        spec = ModelSpec.FromString(found.spec.value)
        resource = _resource(found)
        base_url = spec.base_url or self._endpoint.llm
        model = spec.model or self._endpoint.model
        for value, missing, flag in ((base_url, "base URL", "--llm"), (model, "model name", "--model")):
            if not value:
                raise FailedPrecondition(
                    "NO_MODEL_ENDPOINT",
                    f"{resource} names no {missing} and the worker has none; start it with {flag}, or declare it",
                    resource=resource,
                )
        own = not spec.base_url
        key = _secret(spec.api_key, resource) if spec.HasField("api_key") else ""
        key = key or (self._endpoint.key.get_secret_value() if own else "")
        return self._connections.client(
            ModelEndpoint(
                base_url=base_url,
                model=model,
                api_key=key or None,
                timeouts=_timeouts(spec),
                max_concurrency=spec.max_concurrency if spec.HasField("max_concurrency") else 256,
            )
        )

    def _tool(self, found: Resource) -> Tool:
        return registry.resolve(found.metadata, ToolSpec.FromString(found.spec.value))

    def _agent(
        self, found: Resource, models: Mapping[tuple[str, str], ModelClient], tools: Mapping[tuple[str, str], Tool]
    ) -> Behaviour:
        spec = AgentSpec.FromString(found.spec.value)
        named = {name: _named(tools, "Tool", name, found) for name in spec.tools}
        return AgentBehaviour(
            revision_id=self._config.revision_id,
            generation=self._config.generation,
            config=AgentConfig.from_spec(found.metadata, spec, named),
            model=_named(models, "Model", spec.model, found),
            compensations=_compensations(spec.tools, found, tools),
            retry=_retry(spec.retry),
            executor=self._executor,
            clock=self._clock,
        )

    def _actor(self, found: Resource, tools: Mapping[tuple[str, str], Tool]) -> Behaviour:
        spec = ActorSpec.FromString(found.spec.value)
        resource = _resource(found)
        made = actor.load(spec.entry_point, resource)
        max_batch = spec.max_batch if spec.HasField("max_batch") else MAX_BATCH
        named = {name: _named(tools, "Tool", name, found) for name in spec.tools}
        return ActorBehaviour(
            revision_id=self._config.revision_id,
            generation=self._config.generation,
            make=made,
            form=StateForm.of(made, resource),
            tools=by_name(spec.tools, named, resource),
            compensations=_compensations(spec.tools, found, tools),
            executor=self._executor,
            clock=self._clock,
            retry=_retry(spec.retry),
            deadline=seconds(spec.turn_deadline) if spec.HasField("turn_deadline") else TURN_DEADLINE,
            retention=seconds(spec.retention) if spec.HasField("retention") else RETENTION,
            max_batch=max_batch if actor.takes_batches(made) else 1,
            asks=spec.unknown_outcome == UNKNOWN_OUTCOME_POLICY_PROMISE,
        )


def _name(metadata: Metadata) -> tuple[str, str]:
    return (metadata.namespace or DEFAULT, metadata.name)


def _resource(found: Resource) -> str:
    return "/".join((found.kind, *_name(found.metadata)))


def _named(declared: Mapping[tuple[str, str], T], kind: str, name: str, by: Resource) -> T:
    """What a resource refers to as `name` or `namespace/name`. Raises InvalidArgument where it is not declared."""
    return _referred(declared, kind, name, by.metadata.namespace or DEFAULT, _resource(by))


def _referred(declared: Mapping[tuple[str, str], T], kind: str, name: str, namespace: str, resource: str) -> T:
    before, _, after = name.rpartition("/")
    place = (before or namespace, after)
    if place not in declared:
        missing = "/".join((kind, *place))
        raise InvalidArgument(
            "MISSING_REFERENCE", f"{resource} refers to {missing}, which is not declared", resource=resource
        )
    return declared[place]


def _compensation(tool: Tool, name: tuple[str, str], tools: Mapping[tuple[str, str], Tool]) -> Tool | None:
    if not tool.compensation:
        return None
    return _referred(tools, "Tool", tool.compensation, name[0], tool.resource)


def _check_compensation(tool: Tool, compensation: Tool | None) -> None:
    if compensation is not None and not {"arguments", "result"} <= set(compensation.parameters.names):
        raise InvalidArgument(
            "BAD_COMPENSATION",
            f"{tool.resource}: its compensation {compensation.resource} is called with `arguments` and `result`, and "
            f"takes ({', '.join(compensation.parameters.names)})",
            resource=tool.resource,
        )


def _compensations(references: Iterable[str], by: Resource, tools: Mapping[tuple[str, str], Tool]) -> dict[str, Tool]:
    """What takes back the calls of these tools, by the name of the tool."""
    found: dict[str, Tool] = {}
    for reference in references:
        tool = _named(tools, "Tool", reference, by)
        _, namespace, name = tool.resource.split("/")
        if (compensation := _compensation(tool, (namespace, name), tools)) is not None:
            found[tool.name] = compensation
    return found


def _retry(spec: RetrySpec) -> RetryPolicy:
    plain = RetryPolicy()
    return RetryPolicy(
        max_retries=spec.max_retries if spec.HasField("max_retries") else plain.max_retries,
        initial_delay=seconds(spec.initial_delay) if spec.HasField("initial_delay") else plain.initial_delay,
        max_delay=seconds(spec.max_delay) if spec.HasField("max_delay") else plain.max_delay,
    )


def _timeouts(spec: ModelSpec) -> ModelTimeouts:
    given = {name.name: seconds(value) for name, value in spec.timeouts.ListFields()}
    return ModelTimeouts(**given)


def _secret(reference: SecretRef, resource: str) -> str:
    match reference.WhichOneof("source"):
        case "env":
            value, where = os.environ.get(reference.env), f"environment variable {reference.env}"
        case "file":
            path = Path(reference.file)
            value, where = path.read_text().rstrip("\r\n") if path.is_file() else None, f"file {reference.file}"
        case _:
            raise InvalidArgument("BAD_SECRET", f"{resource}: apiKey names neither env nor file", resource=resource)
    if not value:
        raise FailedPrecondition("SECRET_MISSING", f"{resource}: {where} is not there on the worker", resource=resource)
    return value
