"""`troupe promise`: what turns wait for from outside, and giving it to them."""

import json
from pathlib import Path
from typing import Annotated, Never

import typer
from rich.text import Text

from troupe.chassis.errors import InvalidArgument
from troupe.chassis.ids import uuid7
from troupe.cli import names
from troupe.cli.asking import typed
from troupe.cli.clients import promises
from troupe.cli.edge import Refused, note
from troupe.cli.invocation import Invocation, group
from troupe.cli.promise_view import full_name, promise_table, promise_view, settled_how
from troupe.v1 import promise_pb2
from troupe.v1.envelope_pb2 import Content, Data, SessionRef
from troupe.v1.promise_pb2 import (
    GetPromiseRequest,
    Promise,
    RejectRequest,
    RejectResponse,
    ResolveRequest,
    ResolveResponse,
)

PromiseArgument = Annotated[
    str,
    typer.Argument(
        metavar="PROMISE",
        help="AGENT/SESSION/MESSAGE_ID/NAME, or its token, best as @FILE: others on this machine see what is typed.",
        show_default=False,
    ),
]
ParentArgument = Annotated[
    str | None, typer.Argument(metavar="AGENT[/SESSION]", help="Only of these sessions.", show_default=False)
]
ValueArgument = Annotated[str, typer.Argument(metavar="VALUE", help="JSON; - reads it from stdin.", show_default=False)]
TextOption = Annotated[bool, typer.Option("--text", help="The value is a text as it stands, not JSON.")]
IdOption = Annotated[
    str, typer.Option("--settlement-id", metavar="ID", help="Given again with this id, it gets the same answer.")
]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, one sentence.")]
SettledOption = Annotated[bool, typer.Option("--settled", help="Settled ones too, as long as they are kept.")]
LimitOption = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many.", show_default=True)]


async def show_all(
    invocation: Invocation, parent: ParentArgument = None, settled: SettledOption = False, limit: LimitOption = 1000
) -> None:
    """What turns wait for now."""
    of = names.agent_or_session(parent, invocation.namespace) if parent else SessionRef()
    of.namespace = of.namespace or invocation.namespace or ""
    async with promises(invocation.endpoints.gateway) as desk:
        found, more = await desk.list(of, settled, limit)
    nothing = Text("no turn waits for a promise" if not settled else "there are no promises")
    invocation.output.items(found, lambda: promise_table(found) if found else nothing)
    if more:
        note(f"these are the first {limit}, there are more; narrow the list, or ask for them with --limit")


async def show(invocation: Invocation, promise: PromiseArgument) -> None:
    """One promise: what is asked for, until when, and whether it is settled."""
    request = GetPromiseRequest()
    _name(request, promise, invocation.namespace)
    async with promises(invocation.endpoints.gateway) as desk:
        found = await desk.get(request)
    invocation.output.item(found, lambda: promise_view(found))


async def resolve(
    invocation: Invocation,
    promise: PromiseArgument,
    value: ValueArgument,
    text: TextOption = False,
    settlement_id: IdOption = "",
) -> None:
    """Give a promise its value; its turn goes on with it. Fails where another was first, or it is too late."""
    request = ResolveRequest(settlement_id=settlement_id or uuid7(), value=_content(value, text))
    _name(request, promise, invocation.namespace)
    async with promises(invocation.endpoints.gateway) as desk:
        response = await desk.resolve(request)
    _answered(invocation, response, "resolved")


async def reject(
    invocation: Invocation, promise: PromiseArgument, reason: ReasonOption = "", settlement_id: IdOption = ""
) -> None:
    """Settle a promise without a value: its turn sees a failure. Fails as `resolve` does."""
    request = RejectRequest(settlement_id=settlement_id or uuid7(), reason=reason)
    _name(request, promise, invocation.namespace)
    async with promises(invocation.endpoints.gateway) as desk:
        response = await desk.reject(request)
    _answered(invocation, response, "rejected")


def commands(_name: str) -> typer.Typer:
    """This module's commands."""
    return group(
        "What turns wait for from outside.", {"list": show_all, "show": show, "resolve": resolve, "reject": reject}
    )


def _answered(invocation: Invocation, response: ResolveResponse | RejectResponse, done: str) -> None:
    applied = response.answer == promise_pb2.SETTLEMENT_ANSWER_APPLIED
    invocation.output.item(response, lambda: _said(response.promise, done, applied))
    if not applied:
        raise Refused


def _said(promise: Promise, done: str, applied: bool) -> Text:
    name = full_name(promise)
    return Text(f"{name} {done}", style="green") if applied else Text(f"{name} {settled_how(promise)}", style="red")


def _name(request: GetPromiseRequest | ResolveRequest | RejectRequest, named: str, namespace: str | None) -> None:
    if named.startswith("@"):
        request.token = _kept(named[1:])
    elif named.startswith("tp_") and "/" not in named:
        request.token = named
    else:
        request.promise.CopyFrom(names.promise(named, namespace))


def _kept(file: str) -> str:
    """The token in a file. What it has is a secret, which no error says."""
    try:
        token = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise InvalidArgument("BAD_TOKEN_FILE", f"cannot read a token from {file}: {error}") from error
    if not token.startswith("tp_"):
        raise InvalidArgument("BAD_TOKEN_FILE", f"{file} has no token; write it there as it was given out, from tp_ on")
    return token


def _content(value: str, text: bool) -> Content:
    said = typed() if value == "-" else value
    if text:
        return Content(text=said.rstrip("\n") if value == "-" else said)
    try:
        json.loads(said, parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        hint = "write a text as '\"yes\"', or with --text"
        raise InvalidArgument("NOT_JSON", f"the value is no JSON ({error}); {hint}") from error
    return Content(data=Data(content_type="application/json", value=said.encode()))


def _no_json(constant: str) -> Never:
    raise ValueError(f"{constant} is no number of JSON's")
