"""`troupe send`: hand a message over, and wait for its fate where asked."""

import time
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperCommand

from troupe.chassis.wire import duration, timestamp
from troupe.cli import attributes, durations, moments, names
from troupe.cli.asking import typed
from troupe.cli.attributes import AttributeOption
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
InOption = Annotated[
    float | None,
    typer.Option(
        "--in", parser=durations.parse, metavar="DURATION", help="Deliver it so long from now, at most 366d; not --at."
    ),
]
AtOption = Annotated[
    float | None,
    typer.Option("--at", parser=moments.parse_time, metavar="TIME", help="Deliver it then: 2026-11-26T08:30."),
]


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
    after: InOption = None,
    at: AtOption = None,
    attribute: AttributeOption = None,
) -> None:
    """Send a message. Without --wait, done once it cannot be lost any more."""
    if after is not None and at is not None:
        raise typer.BadParameter("a message has one time; leave one of them out", param_hint="--in and --at")
    if on_busy is OnBusy.REJECT and wait is None and after is None and at is None:
        raise typer.BadParameter(
            "somebody must hear of it; add --wait, or a time with --in or --at", param_hint="--on-busy reject"
        )
    request = message(names.session(session, invocation.namespace), _content(text), message_id)
    request.attributes.update(attributes.parse(attribute))
    if after is not None:
        request.deliver_after.CopyFrom(duration(after))
    if at is not None:
        request.deliver_at.CopyFrom(timestamp(at))
    request.on_busy = agent_pb2.OnBusy.Value(f"ON_BUSY_{on_busy.name}")
    if wait:
        request.wait.CopyFrom(duration(wait))
    async with gateway(invocation.endpoints.gateway) as worker, waiting(invocation.output, "waiting for its fate"):
        response = await worker.send(request)
    name = names.shown(request.session, response.message_id)
    if not wait:
        when = _when(after, at)
        invocation.output.item(response, lambda: Text(f"accepted {name}{when}\nits fate: troupe message wait {name}"))
        return
    invocation.output.item(response, lambda: status_view(response.status))
    if not settled_well(response.status):
        raise Refused


def commands(name: str) -> typer.Typer:
    """This module's command."""
    return alone(name, send, cls=OptionalWait)


def _when(after: float | None, at: float | None) -> str:
    moment = time.time() + after if after else at
    return f", for {moments.shown(timestamp(moment))}" if moment and moment > time.time() else ""


def _content(text: str) -> str:
    return typed().rstrip("\n") if text == "-" else text
