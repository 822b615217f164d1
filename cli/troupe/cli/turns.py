"""`troupe turns`: verbs on messages that run, wait or are scheduled."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text

from troupe.chassis.errors import InvalidArgument
from troupe.chassis.ids import uuid7
from troupe.cli import attributes, names
from troupe.cli.asking import agreed, can_answer
from troupe.cli.attributes import AttributeOption
from troupe.cli.clients import gateway
from troupe.cli.edge import Refused, note
from troupe.cli.invocation import Invocation, group
from troupe.cli.output import counted, printable, table, word
from troupe.cli.spinner import waiting
from troupe.v1 import agent_pb2, turn_pb2
from troupe.v1.agent_pb2 import ControlTurnsRequest, ControlTurnsResponse, JournaledCall, TurnSelector, Verb, VerbAnswer

SELECTED = 1000
"""What a selector means at most, unless --limit says otherwise."""


class State(StrEnum):
    """Where a message stands that a verb can be for."""

    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    SCHEDULED = "scheduled"


MessagesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="AGENT/SESSION/ID…", help="The messages.", show_default=False)
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
FromOption = Annotated[
    int,
    typer.Option("--from", metavar="STEP", min=0, max=2**32 - 1, help="The first step that is taken again; 0: all."),
]
LiftsOption = Annotated[
    str, typer.Option("--lifts", metavar="ID", help="Lift only the pause of this verb id; all of them otherwise.")
]

_ACCEPTED = (agent_pb2.VERB_ANSWER_APPLIED, agent_pb2.VERB_ANSWER_PENDING)
_MEANS = {
    agent_pb2.VERB_ANSWER_STALE: "it is about what is over",
    agent_pb2.VERB_ANSWER_TOO_LATE: "settled before",
    agent_pb2.VERB_ANSWER_PENDING: "on its way, or in its first step; it binds all the same",
    agent_pb2.VERB_ANSWER_NOT_FOUND: "it is not paused, or nothing is kept of it",
    agent_pb2.VERB_ANSWER_NOT_AT_REST: "it runs or has not come yet; pause it, and try again",
}
_STYLES = {agent_pb2.VERB_ANSWER_APPLIED: "green", agent_pb2.VERB_ANSWER_PENDING: "yellow"}


@dataclass(frozen=True, slots=True)
class Which:
    """The options of every verb: those that name messages by what they have in common, and how it is carried out."""

    agent: Annotated[str | None, typer.Option("--agent", metavar="AGENT", help="Those of this agent.")] = None
    session: Annotated[
        str | None, typer.Option("--session", "-s", metavar="S", help="Those of sessions of this name.")
    ] = None
    state: Annotated[list[State] | None, typer.Option("--state", help="Those that stand so; may be given again.")] = (
        None
    )
    attribute: AttributeOption = None
    every: Annotated[bool, typer.Option("--all", help="All that run, wait or are scheduled.")] = False
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="At most so many.", show_default=True)
    ] = SELECTED
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen and change nothing.")] = False
    verb_id: Annotated[
        str, typer.Option("--verb-id", metavar="ID", help="Given again with this id, it gets the same answers.")
    ] = ""

    def request(
        self, invocation: Invocation, verb: Verb.ValueType, messages: list[str] | None, usually: State | None = None
    ) -> ControlTurnsRequest:
        """The verb for the messages that are named, or those that the options mean. `usually`: the state that options
        mean where they name none."""
        request = ControlTurnsRequest(verb=verb, verb_id=self.verb_id or uuid7(), dry_run=self.dry_run)
        selector = self._selector(invocation, usually)
        if bool(messages) == (selector is not None):
            raise InvalidArgument(
                "NOTHING_NAMED", "say which messages: by name, by options such as --agent, or with --all, not both"
            )
        if selector is None:
            request.messages.extend(names.message(one, invocation.namespace) for one in messages or ())
        else:
            request.selector.CopyFrom(selector)
            request.limit = self.limit
        return request

    def _selector(self, invocation: Invocation, usually: State | None) -> TurnSelector | None:
        """None where no option names messages."""
        chosen = TurnSelector(attributes=attributes.parse(self.attribute))
        if self.agent:
            chosen.session.CopyFrom(names.agent(self.agent, invocation.namespace))
            chosen.session.namespace = chosen.session.namespace or names.DEFAULT_NAMESPACE
        elif invocation.namespace:
            chosen.session.namespace = invocation.namespace
        chosen.session.session = self.session or ""
        chosen.fates.extend(turn_pb2.Fate.Value(f"FATE_{state.name}") for state in self.state or ())
        if not (self.every or self.agent or self.session or self.state or self.attribute):
            return None
        if usually is not None and not chosen.fates:
            chosen.fates.append(turn_pb2.Fate.Value(f"FATE_{usually.name}"))
        return chosen


def cancel(invocation: Invocation, messages: MessagesArgument = None, *, which: Which, yes: YesOption = False) -> None:
    """Stop messages, take back what they did, and settle them as CANCELLED. Fails where one that is named was too late.
    At a terminal it asks before it stops what options mean."""
    _stop(invocation, which.request(invocation, agent_pb2.VERB_CANCEL, messages), yes)


def kill(invocation: Invocation, messages: MessagesArgument = None, *, which: Which, yes: YesOption = False) -> None:
    """Stop messages as `cancel` does, without taking back what they did."""
    _stop(invocation, which.request(invocation, agent_pb2.VERB_KILL, messages), yes)


async def pause(invocation: Invocation, messages: MessagesArgument = None, *, which: Which) -> None:
    """Hold messages: no further step of them starts until `resume`; what waits behind them in their sessions waits."""
    request = which.request(invocation, agent_pb2.VERB_PAUSE, messages)
    found = await _carry_out(invocation, request)
    if found and not request.dry_run and invocation.output.human:
        note(f"this pause alone is lifted with --lifts {request.verb_id}")


async def resume(
    invocation: Invocation, messages: MessagesArgument = None, *, which: Which, lifts: LiftsOption = ""
) -> None:
    """Let paused messages go on. Options mean those that are paused, unless --state says otherwise."""
    request = which.request(invocation, agent_pb2.VERB_RESUME, messages, usually=State.PAUSED)
    request.lifts = lifts
    await _carry_out(invocation, request)


async def restart(
    invocation: Invocation, messages: MessagesArgument = None, *, which: Which, from_step: FromOption
) -> None:
    """Settle messages that are paused, wait or are dead letters, and let others go on for them: what was done before
    STEP is kept, and the rest done again, after what waits in their sessions. `--dry-run` shows the steps."""
    request = which.request(invocation, agent_pb2.VERB_RESTART, messages, usually=State.PAUSED)
    request.from_step = from_step
    await _carry_out(invocation, request)


def commands(_name: str) -> typer.Typer:
    """This module's commands."""
    return group(
        "Verbs on messages that run, wait or are scheduled.",
        {"cancel": cancel, "kill": kill, "pause": pause, "resume": resume, "restart": restart},
    )


def _stop(invocation: Invocation, request: ControlTurnsRequest, yes: bool) -> None:
    if request.HasField("selector") and not (yes or request.dry_run) and can_answer():
        found = asyncio.run(_counted(invocation, request))
        name = word(Verb.Name(request.verb), "VERB_").capitalize()
        # Not more than was agreed to, whatever is sent meanwhile.
        most, request.limit = request.limit, found
        if not found:
            _sum_up(invocation, request, Counter())
        elif agreed(f"{name} {counted(found, 'message')}?"):
            asyncio.run(_carry_out(invocation, request, agreed_to=found < most))
        else:
            note("nothing was changed")
            raise Refused
    else:
        asyncio.run(_carry_out(invocation, request))


async def _counted(invocation: Invocation, request: ControlTurnsRequest) -> int:
    asked = ControlTurnsRequest()
    asked.CopyFrom(request)
    asked.dry_run = True
    async with gateway(invocation.endpoints.gateway) as worker, waiting(invocation.output, "counting"):
        return len([answer async for answer in worker.control_selected(asked)])


async def _carry_out(invocation: Invocation, request: ControlTurnsRequest, agreed_to: bool = False) -> int:
    """How many messages there were an answer for."""
    if not request.HasField("selector"):
        return await _named(invocation, request)
    found = await _selected(invocation, request)
    if found == request.limit and not agreed_to:
        note(f"these are {found}, there may be more; run it again, or raise --limit")
    return found


async def _named(invocation: Invocation, request: ControlTurnsRequest) -> int:
    async with gateway(invocation.endpoints.gateway) as worker:
        answers = await worker.control(request)
    invocation.output.items(answers, lambda: table(("MESSAGE", "ANSWER", ""), [_row(answer) for answer in answers]))
    if request.dry_run and invocation.output.human:
        for answer in answers:
            _show_steps(invocation, answer, request.from_step)
    if any(answer.answer not in _ACCEPTED for answer in answers):
        raise Refused
    return len(answers)


async def _selected(invocation: Invocation, request: ControlTurnsRequest) -> int:
    """How many there were. What was settled or lifted meanwhile is no failure: it is not among them any more."""
    output, answers = invocation.output, Counter[VerbAnswer.ValueType]()
    async with gateway(invocation.endpoints.gateway) as worker, waiting(output, "looking for them"):
        async for response in worker.control_selected(request):
            answers[response.answer] += 1
            if output.human:
                name, answer, means = _row(response)
                output.say(Text.assemble(answer, " " * (10 - len(answer)), name, f": {means}" if means else ""))
            else:
                output.event(response)
    _sum_up(invocation, request, answers)
    return answers.total()


def _sum_up(invocation: Invocation, request: ControlTurnsRequest, answers: Counter[VerbAnswer.ValueType]) -> None:
    """The last line for people."""
    if invocation.output.human:
        counts = ", ".join(f"{number} {_word(answer)}" for answer, number in sorted(answers.items()))
        said = counts.replace("_", " ").lower() or "no message matches"
        invocation.output.say(Text(f"dry run, nothing was changed: {said}" if request.dry_run else said, style="bold"))


def _row(answer: ControlTurnsResponse) -> tuple[str, Text, str]:
    name = printable(names.shown(answer.message.session, answer.message.message_id))
    style = _STYLES.get(answer.answer, "red")
    means = f"{answer.restarted_as} goes on" if answer.restarted_as else _MEANS.get(answer.answer, "")
    return name, Text(_word(answer.answer), style=style), means


def _show_steps(invocation: Invocation, answer: ControlTurnsResponse, from_step: int) -> None:
    """What a message has done, and what of it would be done again."""
    rows = [
        (str(step) if first else "", printable(call.tool), _state(call), "kept" if step < from_step else "again")
        for step, each in enumerate(answer.steps)
        for first, call in zip((True, *[False] * len(each.calls)), each.calls, strict=False)
    ]
    if rows:
        invocation.output.say(table(("STEP", "CALL", "", ""), rows))


def _state(call: JournaledCall) -> str:
    if call.ended:
        return "ended"
    return "outcome unknown" if call.started else "not started"


def _word(answer: VerbAnswer.ValueType) -> str:
    return word(VerbAnswer.Name(answer), "VERB_ANSWER_")
