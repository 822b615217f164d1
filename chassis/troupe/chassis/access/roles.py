"""Roles, and the caller of the call that is being answered."""

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """What a caller is to the fleet. A credential may have several."""

    ADMIN = "admin"
    """Changes the fleet, and deals with dead letters."""
    OPERATOR = "operator"
    """Reads everything, and drains workers."""
    CLIENT = "client"
    """Talks to agents, to those that its labels name."""
    TELEMETRY = "telemetry"
    """Watches the status of the fleet."""
    WORKER = "worker"
    """A worker: registers, under its own name, and passes calls on to other workers."""
    CONTROLPLANE = "controlplane"
    """The control plane: brings workers revisions and placements."""


FLEET: Final = frozenset({Role.WORKER, Role.CONTROLPLANE})
"""The fleet's own processes. They act for callers of every tenant and have no rate."""

DEFAULT_TENANT: Final = "default"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a credential belongs to."""

    name: str
    roles: frozenset[Role]
    tenant: str = DEFAULT_TENANT
    """Whose sessions and dead letters are seen."""
    agents: Mapping[str, str] = field(default_factory=dict)
    """Labels that an agent must have for this caller to reach it; empty: it reaches all."""

    @property
    def process(self) -> bool:
        """Whether it is one of the fleet's own processes."""
        return not self.roles.isdisjoint(FLEET)

    def reaches(self, labels: Mapping[str, str]) -> bool:
        """Whether an agent with these labels is one of the caller's."""
        return all(labels.get(name) == value for name, value in self.agents.items())


ANYBODY: Final = Caller("", frozenset(Role) - FLEET)
"""Who calls where no credentials are asked for."""

_current: ContextVar[Caller] = ContextVar("troupe_caller", default=ANYBODY)


def caller() -> Caller:
    """Who made the call that this task, or the one that started it, answers."""
    return _current.get()


@contextlib.contextmanager
def acting(who: Caller) -> Iterator[None]:
    """Calls of `caller` inside give `who`."""
    token = _current.set(who)
    try:
        yield
    finally:
        _current.reset(token)
