"""A look at a RabbitMQ before anything is entrusted to it."""

from dataclasses import dataclass

from troupe.broker.rabbitmq import server, url
from troupe.broker.rabbitmq.lane import Lane


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found."""

    shown: str
    """Where, for people: without credentials."""
    version: str
    warnings: tuple[str, ...]
    """What an operator should know of this version, each a sentence."""


async def examined(address: str, patience: float) -> Examined:
    """Connect, look, and leave. Raises InvalidArgument for the URL, FailedPrecondition for a server that refuses or is
    too old, Unavailable for one that is not reached within `patience` seconds."""
    lane = Lane(url.parameters(address, "troupe doctor"))
    async with lane.open(patience):
        version = server.check((await lane.link()).server_properties)
        return Examined(url.shown(address), ".".join(map(str, version)), tuple(server.warnings(version)))
