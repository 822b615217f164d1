"""`troupe doctor`: what is there, what is missing, and how to get it."""

import asyncio
import os
from collections.abc import AsyncIterator

import typer
from rich.text import Text

from troupe.cli import checks
from troupe.cli.checks import Check, Verdict
from troupe.cli.edge import Refused
from troupe.cli.invocation import Invocation, alone
from troupe.cli.output import table

_STYLES = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


async def doctor(invocation: Invocation) -> None:
    """Check this machine and the fleet; fails when something needed is missing."""
    found = [check async for check in _checks(invocation)]
    documents = [{"check": one.what, "verdict": one.verdict.value, "detail": one.detail} for one in found]
    rows = [(Text(one.verdict.value, style=_STYLES[one.verdict]), one.what, one.detail) for one in found]
    invocation.output.items(documents, lambda: table(("", "CHECK", "FOUND"), rows))
    if any(one.verdict is Verdict.FAIL for one in found):
        raise Refused


def commands(name: str) -> typer.Typer:
    """This module's command."""
    return alone(name, doctor, namespaced=False)


async def _checks(invocation: Invocation) -> AsyncIterator[Check]:
    yield checks.python()
    yield checks.data_directory(invocation.data)
    yield await checks.broker(os.environ)
    yield await checks.state(os.environ)
    required = checks.fleet_expected(invocation.data, invocation.endpoints)
    yield await checks.control_plane(invocation.endpoints.server, required=required)
    yield await checks.worker(invocation.endpoints.gateway, required=required)
    yield await asyncio.to_thread(checks.model, os.environ)
