"""An agent as its turns use it: the spec with its defaults, its tools resolved, its prompt compiled."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from troupe.chassis.errors import InvalidArgument
from troupe.chassis.wire import seconds
from troupe.dataplane.agent.prompt import Window, tokens_of
from troupe.dataplane.agent.template import SystemPrompt
from troupe.dataplane.llm.request import ToolDeclaration
from troupe.dataplane.state.session import RETENTION
from troupe.dataplane.tools.tool import Tool
from troupe.v1 import resource_pb2

MAX_STEPS: Final = 16
MAX_REPEATED_CALLS: Final = 3
CONTEXT_TOKENS: Final = 32_768
TURN_DEADLINE: Final = 600.0


@dataclass(frozen=True)
class AgentConfig:
    """One agent under one revision; built once, shared by all its turns. How failed turns are retried is not here:
    that is the mailbox's business."""

    name: str
    namespace: str = "default"
    system_prompt: SystemPrompt | None = None
    tools: Mapping[str, Tool] = field(default_factory=dict)
    """By the name that the model calls them by, in the order of the spec."""
    max_steps: int = MAX_STEPS
    max_repeated_calls: int = MAX_REPEATED_CALLS
    context_tokens: int = CONTEXT_TOKENS
    turn_deadline: float = TURN_DEADLINE
    """Seconds of one attempt."""
    temperature: float | None = None
    max_output_tokens: int | None = None
    retention: float = RETENTION
    """Seconds after which a session goes that nothing was said to."""
    asks: bool = False
    """A person is asked what a call of unknown outcome came to."""

    @classmethod
    def from_spec(
        cls, metadata: resource_pb2.Metadata, spec: resource_pb2.AgentSpec, tools: Mapping[str, Tool]
    ) -> "AgentConfig":
        """`tools` are those that the spec names, by the reference that it names them by (`name` or `namespace/name`).
        Raises InvalidArgument: BAD_TEMPLATE, TOOL_UNKNOWN for a missing one, TOOL_NAME_TAKEN for two that a model
        could not tell apart."""
        namespace = metadata.namespace or "default"
        resource = f"Agent/{namespace}/{metadata.name}"
        prompt = None
        if spec.system_prompt:
            prompt = SystemPrompt(
                spec.system_prompt, agent=metadata.name, namespace=namespace, labels=dict(metadata.labels)
            )
        return cls(
            name=metadata.name,
            namespace=namespace,
            system_prompt=prompt,
            tools=by_name(spec.tools, tools, resource),
            max_steps=spec.max_steps if spec.HasField("max_steps") else MAX_STEPS,
            max_repeated_calls=(spec.max_repeated_calls if spec.HasField("max_repeated_calls") else MAX_REPEATED_CALLS),
            context_tokens=spec.context_tokens if spec.HasField("context_tokens") else CONTEXT_TOKENS,
            turn_deadline=seconds(spec.turn_deadline) if spec.HasField("turn_deadline") else TURN_DEADLINE,
            temperature=spec.temperature if spec.HasField("temperature") else None,
            max_output_tokens=spec.max_output_tokens if spec.HasField("max_output_tokens") else None,
            retention=seconds(spec.retention) if spec.HasField("retention") else RETENTION,
            asks=spec.unknown_outcome == resource_pb2.UNKNOWN_OUTCOME_POLICY_PROMISE,
        )

    @property
    def resource(self) -> str:
        return f"Agent/{self.namespace}/{self.name}"

    @cached_property
    def declarations(self) -> tuple[ToolDeclaration, ...]:
        """The tools as the model is told of them."""
        return tuple(
            ToolDeclaration(name, tool.description, tool.parameters.schema) for name, tool in self.tools.items()
        )

    def system(self, session: str) -> str:
        """The system message of one session; empty: none."""
        return self.system_prompt.render(session) if self.system_prompt else ""

    def window(self, system: str) -> Window:
        """An empty prompt window with this agent's budget, for that system message."""
        told = sum(
            tokens_of(tool.name) + tokens_of(tool.description) + tokens_of(bytes(tool.parameters).decode())
            for tool in self.declarations
        )
        return Window(budget=self.context_tokens, fixed=tokens_of(system) + told)


def by_name(references: Iterable[str], tools: Mapping[str, Tool], resource: str) -> dict[str, Tool]:
    """The tools that `resource` names, by their own names. Raises as `AgentConfig.from_spec`."""
    by_name: dict[str, Tool] = {}
    for reference in references:
        tool = tools.get(reference)
        if tool is None:
            raise InvalidArgument(
                "TOOL_UNKNOWN", f"{resource} spec.tools: there is no Tool {reference!r}", resource=resource
            )
        if tool.name in by_name:
            what = f"{resource} spec.tools: two tools are named {tool.name!r}, and nobody could tell them apart"
            raise InvalidArgument("TOOL_NAME_TAKEN", what, resource=resource)
        by_name[tool.name] = tool
    return by_name
