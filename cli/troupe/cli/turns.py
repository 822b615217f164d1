"""`troupe turns`: verbs on messages that wait or run."""

from typing import Annotated

import typer

from troupe.cli import names
from troupe.cli.clients import gateway
from troupe.cli.edge import Refused
from troupe.cli.invocation import Invocation, group
from troupe.cli.output import printable, table, word
from troupe.v1 import agent_pb2

MessagesArgument = Annotated[
    list[str], typer.Argument(metavar="AGENT/SESSION/ID…", help="The messages.", show_default=False)
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would happen and change nothing.")]

_ACCEPTED = (agent_pb2.VERB_ANSWER_APPLIED, agent_pb2.VERB_ANSWER_PENDING)


async def cancel(invocation: Invocation, messages: MessagesArgument, dry_run: DryRunOption = False) -> None:
    """Cancel messages: what waits is settled, what runs starts no further step. Fails where one was too late."""
    request = agent_pb2.ControlTurnsRequest(
        verb=agent_pb2.VERB_CANCEL,
        messages=[names.message(one, invocation.namespace) for one in messages],
        dry_run=dry_run,
    )
    async with gateway(invocation.endpoints.gateway) as worker:
        answers = await worker.control(request)
    invocation.output.items(answers, lambda: table(("MESSAGE", "ANSWER"), [_row(answer) for answer in answers]))
    if any(answer.answer not in _ACCEPTED for answer in answers):
        raise Refused


def commands(_name: str) -> typer.Typer:
    """This module's commands."""
    return group("Verbs on messages that wait or run.", {"cancel": cancel})


def _row(answer: agent_pb2.ControlTurnsResponse) -> tuple[str, str]:
    name = printable(names.shown(answer.message.session, answer.message.message_id))
    return name, word(agent_pb2.VerbAnswer.Name(answer.answer), "VERB_ANSWER_")
