"""A rollout as people watch it: drawn in place on a terminal, a line for each change elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from troupe.cli.output import Output, screen
from troupe.cli.rollout import (
    CANARY,
    COMPLETE,
    ENDS,
    PENDING,
    ROLLING,
    ROLLING_BACK,
    Course,
    Progress,
    Stand,
    explained,
    first,
    stage,
    summed,
)
from troupe.v1.control_plane_pb2 import RevisionInfo
from troupe.v1.rollout_pb2 import RolloutStage

REDRAWN = 4
"""Times per second, at most."""
AROUND = 4
"""Lines of the screen that are not for workers: the headlines, and the prompt below."""

_STYLES = {
    Progress.APPLIED: "green",
    Progress.FAILED: "red",
    Progress.UNDER_WAY: "yellow",
    Progress.WAITING: "dim",
}
_STAGES = {
    COMPLETE: "bold green",
    RolloutStage.ROLLOUT_STAGE_HALTED: "bold red",
    ROLLING_BACK: "bold red",
    RolloutStage.ROLLOUT_STAGE_ROLLED_BACK: "bold red",
    RolloutStage.ROLLOUT_STAGE_SUPERSEDED: "bold yellow",
}
_SETTLED = (Progress.APPLIED, Progress.FAILED)
_LEFT_TO_THE_END = ENDS - {COMPLETE} | {PENDING}
_FIRST = (Progress.FAILED, Progress.UNDER_WAY, Progress.APPLIED, Progress.WAITING)
"""Whom a screen that is too small for all shows."""


@contextlib.contextmanager
def shown(output: Output) -> Iterator[Callable[[Course], None]]:
    """What shows how a rollout stands, each time that it is called, until the body is left. Nothing to programs."""
    if not output.human:
        yield lambda _: None
    elif output.console.is_terminal:
        with _drawn() as seen:
            yield seen
    else:
        yield Lines(output.say).seen


class Lines:
    """Each stage and each word of a worker, once. The end is left to whoever waits for it, unless all is well."""

    def __init__(self, say: Callable[[Text], None]) -> None:
        self._say = say
        self._said: dict[str, str] = {}

    def seen(self, course: Course) -> None:
        if not course.answers:
            self._line("control plane", "the control plane does not answer; still waiting")
            return
        if self._said.pop("control plane", None):
            self._say(Text("the control plane answers again"))
        self._revision("", course.revision, course.stands(), course.explained)
        if (way_back := course.way_back) is not None:
            self._revision(f"revision {way_back.generation}: ", way_back, course.ways_back(), explained(way_back))

    def _revision(self, before: str, revision: RevisionInfo, stands: Sequence[Stand], what: str) -> None:
        about, rollout = revision.revision_id, revision.rollout
        canaries = {one.worker_id for one in rollout.workers if one.canary}
        if canaries and about not in self._said and rollout.stage != CANARY:
            self._say(Text(f"{before}CANARY: {first(revision)}", style="bold"))
        # What led to a stage is told before it, though both were heard at once.
        settled = [one for one in stands if one.progress in _SETTLED]
        if rollout.stage == ROLLING:
            settled = [one for one in settled if one.worker_id in canaries]
        if rollout.stage != CANARY:
            self._stands(about, before, settled)
        if rollout.stage and rollout.stage not in _LEFT_TO_THE_END:
            self._line(about, f"{before}{stage(rollout)}: {what}", _STAGES.get(rollout.stage, "bold"))
        self._stands(about, before, [one for one in stands if one.progress is not Progress.WAITING])

    def _stands(self, about: str, before: str, stands: Sequence[Stand]) -> None:
        for one in stands:
            self._line(f"{about} {one.worker_id}", f"{before}{one}", _STYLES[one.progress])

    def _line(self, about: str, text: str, style: str = "") -> None:
        if self._said.get(about) != text:
            self._said[about] = text
            self._say(Text(text, style=style))


@contextlib.contextmanager
def _drawn() -> Iterator[Callable[[Course], None]]:
    console, began = screen(), time.monotonic()
    now: list[Course] = []

    def picture() -> RenderableType:
        return drawn(now[-1], time.monotonic() - began, console.height - AROUND) if now else Text()

    def seen(course: Course) -> None:
        now[:] = [course]

    # The last picture stays, and the cursor comes back, whatever ends it.
    with Live(console=console, get_renderable=picture, refresh_per_second=REDRAWN, vertical_overflow="ellipsis"):
        yield seen


def drawn(course: Course, passed: float, rows: int) -> Group:
    """The rollout `passed` seconds after it was first looked at, with `rows` lines of workers at most."""
    parts: list[RenderableType] = [_headline(course.revision, course.stands(), passed)]
    if not course.answers:
        parts.append(Text("the control plane does not answer; this is what it said last", style="yellow"))
    if course.way_back is None:
        return Group(*parts, *_rows(course.stands(), rows))
    failed = [one for one in course.stands() if one.progress is Progress.FAILED]
    parts += [*_rows(failed, max(1, rows // 2)), _headline(course.way_back, course.ways_back(), None)]
    return Group(*parts, *_rows(course.ways_back(), max(1, rows - len(failed) - 1)))


def _headline(revision: RevisionInfo, stands: Sequence[Stand], passed: float | None) -> Text:
    rollout = revision.rollout
    text = Text.assemble((f"revision {revision.generation} {stage(rollout)}", _STAGES.get(rollout.stage, "bold")))
    if rollout.stage in (COMPLETE, ROLLING_BACK) or rollout.stage not in ENDS:
        text.append("".join(f" · {part}" for part in (explained_briefly(revision), summed(stands)) if part))
    return text.append(f" · {passed:.0f} s" if passed is not None else "")


def explained_briefly(revision: RevisionInfo) -> str:
    """What a headline says of the stage beside the numbers of workers; why it failed stands with those that did."""
    return explained(revision) if revision.rollout.stage not in ENDS | {PENDING, ROLLING_BACK} else ""


def _rows(stands: Sequence[Stand], rows: int) -> list[RenderableType]:
    chosen = list(stands)
    if len(stands) > rows:
        chosen = sorted(stands, key=lambda one: _FIRST.index(one.progress))[: max(0, rows - 1)]
    shown = Table.grid(padding=(0, 2))
    for one in chosen:
        shown.add_row(f"  {one.worker_id}", Text(one.phase, style=_STYLES[one.progress]), Text(one.reason))
    rest = [one for one in stands if one not in chosen]
    return [*([shown] if chosen else []), *([Text(f"  and {summed(rest)}", style="dim")] if rest else [])]
