"""Resources for tests, built shortly."""

from collections.abc import Mapping

from google.protobuf.message import Message

from troupe.v1.resource_pb2 import ActorSpec, AgentSpec, Metadata, ModelSpec, PythonTool, Resource, ToolSpec


def resource(
    kind: str, name: str, spec: Message, namespace: str = "default", labels: Mapping[str, str] | None = None
) -> Resource:
    """Any resource, its spec packed."""
    made = Resource(kind=kind, metadata=Metadata(name=name, namespace=namespace, labels=labels))
    made.spec.Pack(spec, deterministic=True)
    return made


def agent(name: str = "clerk", spec: AgentSpec | None = None, namespace: str = "default") -> Resource:
    """An agent of the model `default`, unless a spec says otherwise."""
    return resource("Agent", name, spec or AgentSpec(model="default"), namespace)


def actor(name: str = "counter", spec: ActorSpec | None = None, namespace: str = "default") -> Resource:
    """An actor."""
    return resource("Actor", name, spec or ActorSpec(entry_point="fleet.actors:Counter"), namespace)


def model(name: str = "default", spec: ModelSpec | None = None, namespace: str = "default") -> Resource:
    """A model with every default."""
    return resource("Model", name, spec or ModelSpec(), namespace)


def tool(name: str = "calculator", spec: ToolSpec | None = None, namespace: str = "default") -> Resource:
    """A Python tool."""
    return resource("Tool", name, spec or ToolSpec(python=PythonTool(entry_point="fleet.tools:run")), namespace)


def fleet(*, prompt: str = "You are a clerk.") -> list[Resource]:
    """One agent with its model and its tool: the smallest set that is worth syncing."""
    spec = AgentSpec(model="default", system_prompt=prompt, tools=["calculator"])
    return [agent("clerk", spec), model("default"), tool("calculator")]
