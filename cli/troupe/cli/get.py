"""`troupe get`: what there is, as a table or as what can be applied again."""

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from troupe.chassis.errors import NotFound
from troupe.cli import names
from troupe.cli.clients import control_plane, gateway
from troupe.cli.columns import outcome_table, resource_table, revision_table, session_table, worker_table
from troupe.cli.fleet_status import snapshot
from troupe.cli.invocation import Invocation, alone
from troupe.cli.kinds import listed
from troupe.cli.names import DEFAULT_NAMESPACE
from troupe.cli.output import Format, Item
from troupe.cli.rollout import by_generation, explained
from troupe.resources.content import key
from troupe.resources.render import manifest, to_yaml
from troupe.v1.control_plane_pb2 import RevisionInfo

T = TypeVar("T")

KindArgument = Annotated[
    str,
    typer.Argument(
        metavar="KIND", help="agents, actors, tools, models, workers, revisions or sessions.", show_default=False
    ),
]
NameArgument = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="Only this one; of sessions, AGENT or AGENT/SESSION.", show_default=False),
]


async def get(invocation: Invocation, kind: KindArgument, name: NameArgument = None) -> None:
    """List what there is, in every namespace unless one is named."""
    match listed(kind):
        case "workers":
            await _workers(invocation, name)
        case "revisions":
            await _revisions(invocation, name)
        case "sessions":
            await _sessions(invocation, name)
        case resource_kind:
            await _resources(invocation, resource_kind, name)


def commands(name: str) -> typer.Typer:
    """This module's command."""
    return alone(name, get)


async def _resources(invocation: Invocation, kind: str, name: str | None) -> None:
    async with control_plane(invocation.endpoints.server) as fleet:
        config = (await fleet.current()).config
    namespace = invocation.namespace or (DEFAULT_NAMESPACE if name else None)
    found = sorted((one for one in config.resources if one.kind == kind), key=key)
    found = [one for one in found if namespace in (None, key(one).namespace) and name in (None, key(one).name)]
    if name and not found:
        raise NotFound("NO_RESOURCE", f"there is no {kind}/{namespace}/{name}; `troupe get {kind.lower()}s` lists them")
    if invocation.output.format is Format.YAML:
        print(to_yaml(found), end="")
    else:
        _print(invocation, name, [manifest(one) for one in found], lambda: resource_table(kind, found))


async def _workers(invocation: Invocation, name: str | None) -> None:
    async with control_plane(invocation.endpoints.server) as fleet:
        status = await snapshot(fleet)
    found = _chosen("worker", name, status.workers, lambda one: (one.worker_id,))
    _print(invocation, name, found, lambda: worker_table(found, status.generations(), wide=True))


async def _revisions(invocation: Invocation, name: str | None) -> None:
    async with control_plane(invocation.endpoints.server) as fleet:
        revisions = await fleet.revisions()
    found = _chosen("revision", name, revisions, lambda one: (one.revision_id, str(one.generation)))
    _print(
        invocation,
        name,
        found,
        lambda: revision_table(found, revisions) if name is None else _revision(found[0], revisions),
    )


def _revision(one: RevisionInfo, kept: Sequence[RevisionInfo]) -> RenderableType:
    parts: list[RenderableType] = [revision_table([one], kept)]
    if one.rollout.reason:
        parts.append(Text(by_generation(explained(one), kept)))
    if one.rollout.workers:
        parts += [Text(), outcome_table(one)]
    return Group(*parts)


async def _sessions(invocation: Invocation, name: str | None) -> None:
    async with gateway(invocation.endpoints.gateway) as worker:
        if name and "/" in name:
            response = await worker.session(names.session(name, invocation.namespace))
            _print(invocation, name, [response.session], lambda: session_table([response.session]))
            return
        sessions = await worker.sessions(names.agent(name, invocation.namespace) if name else None)
    found = [one for one in sessions if invocation.namespace in (None, one.session.namespace or DEFAULT_NAMESPACE)]
    _print(invocation, None, found, lambda: session_table(found))


def _chosen(what: str, name: str | None, items: Sequence[T], ids: Callable[[T], tuple[str, ...]]) -> list[T]:
    found = [item for item in items if name is None or name in ids(item)]
    if name and not found:
        raise NotFound("UNKNOWN_NAME", f"there is no {what} {name}; `troupe get {what}s` lists them")
    return found


def _print(
    invocation: Invocation, name: str | None, found: Sequence[Item], human: Callable[[], RenderableType]
) -> None:
    if name:
        invocation.output.item(found[0], human)
    else:
        invocation.output.items(found, human)
