"""`troupe send`: hand a message over, and wait for its fate where asked."""

import sys
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperCommand

from troupe.chassis.wire import duration
from troupe.cli import durations, names
from troupe.cli.clients import gateway
from troupe.cli.conversation import message
from troupe.cli.edge import Refused
from troupe.cli.fate import settled_well, status_view
from troupe.cli.invocation import Invocation, alone
from troupe.cli.spinner import waiting
from troupe.v1 import agent_pb2

WAIT = "60s"
"""What `--wait` means without a duration."""


class OnBusy(StrEnum):
    """What the message does when its session is busy."""

    ENQUEUE = "enqueue"
    REJECT = "reject"
    INTERRUPT = "interrupt"
    STEER = "steer"


SessionArgument = Annotated[
    str, typer.Argument(metavar="AGENT/SESSION", help="The session; its first message makes it.", show_default=False)
]
TextArgument = Annotated[
    str, typer.Argument(metavar="TEXT", help="What to say; - reads it from stdin.", show_default=False)
]
IdOption = Annotated[
    str, typer.Option("--message-id", metavar="ID", help="Sent again under this id, it has no second effect.")
]
WaitOption = Annotated[
    float | None,
    typer.Option(
        "--wait", parser=durations.parse, metavar="[DURATION]", help=f"Wait for its fate, {WAIT} unless you say."
    ),
]
OnBusyOption = Annotated[OnBusy, typer.Option("--on-busy", help="When anything of the session runs or waits.")]


class OptionalWait(TyperCommand):
    """Lets `--wait` stand without a duration."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [*with_durations(args)])


def with_durations(arguments: list[str]) -> list[str]:
    """`--wait` followed by no duration becomes `--wait=60s`. What follows `--` stays as it is."""
    result: list[str] = []
    for index, argument in enumerate(arguments):
        if argument == "--":
            return result + arguments[index:]
        following = arguments[index + 1 : index + 2]
        bare = argument == "--wait" and not (following and durations.looks_like_duration(following[0]))
        result.append(f"--wait={WAIT}" if bare else argument)
    return result


async def send(
    invocation: Invocation,
    session: SessionArgument,
    text: TextArgument,
    message_id: IdOption = "",
    wait: WaitOption = None,
    on_busy: OnBusyOption = OnBusy.ENQUEUE,
) -> None:
    """Send a message. Without --wait, done once it cannot be lost any more."""
    request = message(names.session(session, invocation.namespace), _content(text), message_id)
    request.on_busy = agent_pb2.OnBusy.Value(f"ON_BUSY_{on_busy.name}")
    if wait:
        request.wait.CopyFrom(duration(wait))
    async with gateway(invocation.endpoints.gateway) as worker, waiting(invocation.output, "waiting for its fate"):
        response = await worker.send(request)
    name = names.shown(request.session, response.message_id)
    if not wait:
        invocation.output.item(response, lambda: Text(f"accepted {name}\nits fate: troupe message wait {name}"))
        return
    invocation.output.item(response, lambda: status_view(response.status))
    if not settled_well(response.status):
        raise Refused


def commands(name: str) -> typer.Typer:
    """This module's command."""
    return alone(name, send, cls=OptionalWait)


def _content(text: str) -> str:
    return sys.stdin.read().rstrip("\n") if text == "-" else text
