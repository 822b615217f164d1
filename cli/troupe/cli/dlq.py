"""`troupe dlq`: messages that were given up, and what to do with them."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.text import Text

from troupe.chassis.errors import InvalidArgument
from troupe.chassis.wire import timestamp
from troupe.cli import moments, names
from troupe.cli.asking import agreed, can_answer
from troupe.cli.clients import dead_letters
from troupe.cli.edge import Refused, complain, note
from troupe.cli.invocation import Invocation, group
from troupe.cli.letter_view import letter_table, letter_view, name
from troupe.cli.output import counted, screen, word
from troupe.cli.spinner import waiting
from troupe.v1 import dead_letter_pb2
from troupe.v1.dead_letter_pb2 import DeadLetter, DeadLetterFilter, PurgeRequest, RedriveOutcome, RedriveRequest

AGENTS = "agents"
POOL_HELP = "Whose: agents, for mailboxes, or a pool of workers."

PoolArgument = Annotated[str, typer.Argument(metavar="POOL", help=POOL_HELP)]
LetterArgument = Annotated[str, typer.Argument(metavar="ID", help="The letter.", show_default=False)]
IdsArgument = Annotated[list[str] | None, typer.Argument(metavar="ID…", help="Only these letters.", show_default=False)]
LimitOption = Annotated[
    int | None, typer.Option("--limit", metavar="N", min=1, help="At most so many, the oldest first.")
]
ListedOption = Annotated[
    int, typer.Option("--limit", metavar="N", min=1, help="At most so many, the oldest first.", show_default=True)
]
RateOption = Annotated[
    float | None,
    typer.Option("--rate", metavar="N", min=0.001, max=100_000, help="At most so many a second."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would happen and change nothing.")]
AllOption = Annotated[bool, typer.Option("--all", help="Every letter of the pool.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_STYLES = {
    dead_letter_pb2.REDRIVE_OUTCOME_REDRIVEN: "green",
    dead_letter_pb2.REDRIVE_OUTCOME_UNDECODABLE: "red",
}
_STAYS = (
    dead_letter_pb2.REDRIVE_OUTCOME_NOT_SETTLED,
    dead_letter_pb2.REDRIVE_OUTCOME_UNDECODABLE,
    dead_letter_pb2.REDRIVE_OUTCOME_NOT_COMPENSATED,
)


@dataclass(frozen=True, slots=True)
class Which:
    """The options that say which letters a command is about."""

    reason: Annotated[
        list[str] | None,
        typer.Option("--reason", metavar="REASON", help="Only what died of this; may be given again."),
    ] = None
    session: Annotated[
        str | None, typer.Option("--session", "-s", metavar="AGENT[/SESSION]", help="Only what was for it.")
    ] = None
    since: Annotated[
        float | None,
        typer.Option(
            "--since",
            parser=moments.parse,
            metavar="WHEN",
            help="Only what was given up since: a time, or 1h for an hour ago.",
        ),
    ] = None
    before: Annotated[
        float | None,
        typer.Option(
            "--before",
            parser=moments.parse,
            metavar="WHEN",
            help="Only what was given up before: a time, or 1h for an hour ago.",
        ),
    ] = None

    def filter(self, invocation: Invocation, ids: Iterable[str] = ()) -> DeadLetterFilter:
        chosen = DeadLetterFilter(letter_ids=ids, reasons=self.reason or [])
        if self.session:
            chosen.session.CopyFrom(names.agent_or_session(self.session, invocation.namespace))
        elif invocation.namespace:
            chosen.session.namespace = invocation.namespace
        if self.since is not None:
            chosen.since.CopyFrom(timestamp(self.since))
        if self.before is not None:
            chosen.before.CopyFrom(timestamp(self.before))
        return chosen


async def show_all(
    invocation: Invocation,
    pool: PoolArgument = AGENTS,
    *,
    which: Which,
    limit: ListedOption = 1000,
) -> None:
    """Messages that were given up, oldest first."""
    chosen = which.filter(invocation)
    async with dead_letters(invocation.endpoints.gateway) as desk, waiting(invocation.output, "looking at all letters"):
        found, more = await desk.list(pool, chosen, limit)
    room = screen().width if invocation.output.console.is_terminal else None
    nothing = Text(_nothing(pool, chosen))
    invocation.output.items(found, lambda: letter_table(found, room) if found else nothing)
    if more:
        note(f"these are the oldest {limit}, there are more; narrow the list, or ask for them with --limit")


async def show(invocation: Invocation, letter: LetterArgument, pool: PoolArgument = AGENTS) -> None:
    """All that is known of one: why it died, how often it was tried, and what it said."""
    async with dead_letters(invocation.endpoints.gateway) as desk, waiting(invocation.output, "looking for it"):
        response = await desk.get(pool, letter)
    invocation.output.item(response, lambda: letter_view(response))


async def redrive(
    invocation: Invocation,
    pool: PoolArgument = AGENTS,
    ids: IdsArgument = None,
    *,
    which: Which,
    limit: LimitOption = None,
    rate: RateOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Send messages again, to where they were sent at first. Fails where a letter stays."""
    pool, wanted = _named(pool, ids)
    chosen = which.filter(invocation, wanted)
    request = RedriveRequest(pool=pool, filter=chosen, limit=_bounded(limit), rate=rate or 0.0, dry_run=dry_run)
    outcomes: Counter[RedriveOutcome.ValueType] = Counter()
    found: set[str] = set()
    async with dead_letters(invocation.endpoints.gateway) as desk, waiting(invocation.output, "redriving"):
        async for response in desk.redrive(request):
            outcomes[response.outcome] += 1
            found.add(response.letter.letter_id)
            if invocation.output.human:
                outcome = word(RedriveOutcome.Name(response.outcome), "REDRIVE_OUTCOME_")
                style = _STYLES.get(response.outcome, "yellow")
                invocation.output.say(_line(response.letter, outcome, style, response.detail))
            else:
                invocation.output.event(response)
    counts = (
        f"{number} {word(RedriveOutcome.Name(one), 'REDRIVE_OUTCOME_').replace('_', ' ').lower()}"
        for one, number in sorted(outcomes.items())
    )
    _sum_up(invocation, request, ", ".join(counts))
    _complain_of_missing(pool, wanted, found)
    if any(outcomes[one] for one in _STAYS):
        raise Refused


def purge(
    invocation: Invocation,
    pool: PoolArgument = AGENTS,
    ids: IdsArgument = None,
    *,
    which: Which,
    every: AllOption = False,
    limit: LimitOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Drop messages for good. Asks first where a person can answer."""
    pool, wanted = _named(pool, ids)
    chosen = which.filter(invocation, wanted)
    if every == (chosen != DeadLetterFilter()):
        raise InvalidArgument(
            "NOTHING_NAMED", "say which letters to purge: by id, by an option, or with --all, not both"
        )
    request = PurgeRequest(pool=pool, filter=chosen, all=every, limit=_bounded(limit), dry_run=dry_run)
    asks = not (yes or dry_run) and can_answer()
    if asks:
        # Not more than was agreed to, whatever is given up meanwhile.
        request.limit = asyncio.run(_counted(invocation, request))
        if request.limit and not agreed(f"Drop {counted(request.limit, 'message')} of pool {pool} for good?"):
            note("nothing was purged")
            raise Refused
    found = set[str]() if asks and not request.limit else asyncio.run(_purged(invocation, request))
    _sum_up(invocation, request, f"{len(found)} purged" if found else "")
    _complain_of_missing(pool, wanted, found)


async def _counted(invocation: Invocation, request: PurgeRequest) -> int:
    asked = PurgeRequest()
    asked.CopyFrom(request)
    asked.dry_run = True
    async with dead_letters(invocation.endpoints.gateway) as desk, waiting(invocation.output, "counting"):
        return len([response async for response in desk.purge(asked)])


async def _purged(invocation: Invocation, request: PurgeRequest) -> set[str]:
    found: set[str] = set()
    async with dead_letters(invocation.endpoints.gateway) as desk, waiting(invocation.output, "purging"):
        async for response in desk.purge(request):
            found.add(response.letter.letter_id)
            if invocation.output.human:
                invocation.output.say(_line(response.letter, "PURGED", "yellow", ""))
            else:
                invocation.output.event(response)
    return found


def commands(_name: str) -> typer.Typer:
    """This module's commands."""
    return group("Messages that were given up.", {"list": show_all, "show": show, "redrive": redrive, "purge": purge})


def _bounded(limit: int | None) -> int:
    """As the contract has it: 0 for no bound."""
    return min(limit or 0, 2**32 - 1)


def _named(pool: str, ids: list[str] | None) -> tuple[str, list[str]]:
    """The pool may be left out before ids."""
    return (AGENTS, [pool, *(ids or [])]) if _ID.fullmatch(pool) else (pool, ids or [])


def _line(letter: DeadLetter, outcome: str, style: str, detail: str) -> Text:
    why = f": {detail}" if detail else ""
    return Text.assemble((f"{outcome:<11}", style), f" {letter.letter_id} {name(letter)}{why}")


def _sum_up(invocation: Invocation, request: RedriveRequest | PurgeRequest, counts: str) -> None:
    """The last line for people. Of letters that were named and are not there, an error speaks."""
    if not invocation.output.human or (request.filter.letter_ids and not counts):
        return
    said = counts or _nothing(request.pool, request.filter)
    if request.dry_run:
        said = f"dry run, nothing was changed: {said}"
    invocation.output.say(Text(said, style="bold"))


def _nothing(pool: str, chosen: DeadLetterFilter) -> str:
    if chosen != DeadLetterFilter():
        return f"no dead letter of pool {pool} matches"
    return f"pool {pool} has no dead letters: no message was given up"


def _complain_of_missing(pool: str, wanted: list[str], found: set[str]) -> None:
    missing = [one for one in wanted if one not in found]
    for one in missing:
        complain(f"there is no dead letter {one} in pool {pool}; `troupe dlq list {pool}` lists them")
    if missing:
        raise Refused
