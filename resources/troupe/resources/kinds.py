"""The kinds that a user can declare, and the spec that belongs to each."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from troupe.chassis.errors import InvalidArgument
from troupe.v1 import resource_pb2

API_VERSION = "troupe.dev/v1"
DEFAULT_NAMESPACE = "default"

SPECS: Mapping[str, type[Message]] = MappingProxyType(
    {
        "Agent": resource_pb2.AgentSpec,
        "Actor": resource_pb2.ActorSpec,
        "Model": resource_pb2.ModelSpec,
        "Tool": resource_pb2.ToolSpec,
    }
)
"""Kind to spec message. A kind that is not here is not built."""


def descriptor(message: type[Message] | Message) -> Descriptor:
    """The message's descriptor; protobuf's type stubs name two classes where there is one interface."""
    return cast("Descriptor", message.DESCRIPTOR)


def unpack(resource: resource_pb2.Resource) -> Message:
    """The resource's typed spec. Raises InvalidArgument where the kind is unknown, the spec is of another kind, or
    its bytes cannot be read."""
    known = SPECS.get(resource.kind)
    if known is None:
        raise InvalidArgument("UNKNOWN_KIND", f"kind {resource.kind!r} is not known; use {', '.join(SPECS)}")
    if not resource.spec.Is(descriptor(known)):
        raise InvalidArgument(
            "OTHER_SPEC",
            f"a spec of type {resource.spec.type_url.rpartition('/')[2]!r} does not belong to kind {resource.kind}; "
            f"it takes {known.DESCRIPTOR.full_name}",
        )
    spec = known()
    try:
        resource.spec.Unpack(spec)
    except DecodeError as error:
        raise InvalidArgument("BAD_SPEC", f"its bytes are no {known.DESCRIPTOR.full_name}") from error
    return spec
