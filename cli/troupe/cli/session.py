"""`troupe session`: one conversation."""

from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from troupe.cli import names
from troupe.cli.clients import gateway
from troupe.cli.columns import age
from troupe.cli.invocation import Invocation, group
from troupe.cli.output import counted, printable, word
from troupe.cli.transcript import call_text, usage
from troupe.v1 import agent_pb2

SessionArgument = Annotated[str, typer.Argument(metavar="AGENT/SESSION", help="The session.", show_default=False)]
HistoryOption = Annotated[
    int, typer.Option("--history", metavar="N", min=0, max=1000, help="How many of its newest entries to show.")
]
LastOption = Annotated[
    int, typer.Option("--last", metavar="N", min=1, max=1000, help="Only the newest so many.", show_default=True)
]


async def show(invocation: Invocation, session: SessionArgument, history: HistoryOption = 20) -> None:
    """What a session is doing, and the newest of what was said."""
    ref = names.session(session, invocation.namespace)
    async with gateway(invocation.endpoints.gateway) as worker:
        response = await worker.session(ref, history)
    invocation.output.item(response, lambda: _view(response))


async def history(invocation: Invocation, session: SessionArgument, last: LastOption = 1000) -> None:
    """What was said, oldest first."""
    ref = names.session(session, invocation.namespace)
    async with gateway(invocation.endpoints.gateway) as worker:
        entries = (await worker.session(ref, last)).history
    nothing = Text("no history: nothing was said and answered yet, or it is an actor, which keeps none")
    invocation.output.items(entries, lambda: Group(*map(_entry, entries)) if entries else nothing)


async def delete(invocation: Invocation, session: SessionArgument) -> None:
    """Cancel what runs, waits and is scheduled, and drop state, history and reminders."""
    ref = names.session(session, invocation.namespace)
    async with gateway(invocation.endpoints.gateway) as worker:
        cancelled = await worker.delete_session(ref)
    messages = f", {counted(cancelled, 'message')} cancelled" if cancelled else ""
    invocation.output.item(
        {"session": ref, "cancelled": cancelled}, lambda: Text(f"{names.shown(ref)} deleted{messages}")
    )


def commands(_name: str) -> typer.Typer:
    """This module's commands."""
    return group("One conversation.", {"show": show, "history": history, "delete": delete})


def _view(response: agent_pb2.GetSessionResponse) -> Group:
    session = response.session
    facts = Table(box=None, pad_edge=False, show_header=False, padding=(0, 3, 0, 0))
    rows = {
        "session": names.shown(session.session),
        "state": word(agent_pb2.SessionState.Name(session.state), "SESSION_STATE_"),
        "running": session.running_message_id,
        "waiting": str(session.waiting),
        "scheduled": str(session.scheduled) if session.scheduled else "",
        "waits for": "\n".join(names.shown(session.session, one.promise_id) for one in session.promises),
        "turns": f"{session.turns} (version {session.version})",
        "used": usage(session.usage),
        "begun": f"{age(session.created_at)} ago" if session.HasField("created_at") else "",
        "updated": f"{age(session.updated_at)} ago" if session.HasField("updated_at") else "",
        "worker": f"{session.worker_id or '-'} (shard {session.shard})",
    }
    for name, value in rows.items():
        if value:
            facts.add_row(Text(name, style="bold"), printable(value))
    parts: list[RenderableType] = [facts, *([Text()] if response.history else [])]
    return Group(*parts, *(_entry(entry) for entry in response.history))


def _entry(entry: agent_pb2.HistoryEntry) -> Text:
    match entry.role:
        case "user":
            return Text.assemble(("user> ", "bold"), printable(entry.text))
        case "tool":
            return Text(f"← {printable(entry.text)}", style="cyan")
        case _:
            calls = "\n".join(f"→ {call_text(call)}" for call in entry.tool_calls)
            return Text("\n").join(
                [Text(part, style) for part, style in ((printable(entry.text), ""), (calls, "cyan")) if part]
            )
