"""What commands print: tables for people, JSON and YAML for programs, all on stdout.

In JSON and YAML, messages follow protobuf's JSON mapping (camelCase names, enum values in full). A list is an array
in JSON and one document for each item in YAML; a stream is one JSON object per line, flushed line by line.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console, RenderableType
from rich.table import Table

Item = Message | Mapping[str, Any]
"""What can be printed for programs: a message, or a document made of messages and plain values."""

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Those of ASCII and Latin-1, and those that turn the direction of writing."""

UNBOUNDED = 100_000
"""Columns that are printed: nothing is cut for a program, and a terminal folds a line that is too long for it, which
reads better than a table with all its cells folded."""


class Format(StrEnum):
    """How a command prints."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


@dataclass(frozen=True, slots=True)
class Output:
    """One command's way to print."""

    format: Format
    console: Console

    @property
    def human(self) -> bool:
        """Whether people read it."""
        return self.format is Format.TABLE

    def item(self, item: Item, human: Callable[[], RenderableType]) -> None:
        """Print one thing; `human` makes what people see of it."""
        if self.human:
            self.say(human())
        else:
            self._write([document(item)], one=True)

    def items(self, items: Sequence[Item], human: Callable[[], RenderableType]) -> None:
        """Print a list of things."""
        if self.human:
            self.say(human())
        else:
            self._write([document(item) for item in items], one=False)

    def event(self, item: Item) -> None:
        """One element of a stream, in either of the two formats for programs: a line of JSON."""
        print(json.dumps(document(item), ensure_ascii=False), flush=True)

    def say(self, *what: RenderableType) -> None:
        """Print for people."""
        if self.console.is_terminal:
            for one in what:
                self.console.print(one)
            return
        with self.console.capture() as captured:
            self.console.print(*what, sep="\n")
        for line in captured.get().splitlines():
            print(line.rstrip())

    def _write(self, documents: list[Any], *, one: bool) -> None:
        if self.format is Format.JSON:
            print(json.dumps(documents[0] if one else documents, indent=2, ensure_ascii=False))
        elif documents:
            print(_yaml(documents, separated=not one), end="")


def output(format_: Format) -> Output:
    """Prints on stdout as it is now: without colours where it is no terminal or NO_COLOR is set."""
    return Output(format_, _console(UNBOUNDED))


def screen() -> Console:
    """The terminal as it is, for what is drawn over and must know where its lines end."""
    return _console(None)


def document(item: Any) -> Any:
    """The plain values of a message by protobuf's JSON mapping; mappings and lists may hold messages."""
    match item:
        case Message():
            return json_format.MessageToDict(item)
        case Mapping():
            return {name: document(value) for name, value in item.items()}
        case list() | tuple():
            return [document(value) for value in item]
        case _:
            return item


def table(columns: Sequence[str], rows: Iterable[Sequence[RenderableType]], right: Sequence[str] = ()) -> Table:
    """Columns without borders; those named in `right` hold numbers."""
    shown = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold", show_edge=False)
    for column in columns:
        shown.add_column(column, justify="right" if column in right else "left", overflow="ellipsis", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    return shown


def word(name: str, prefix: str) -> str:
    """An enum value for people: `FATE_DONE` with the prefix `FATE_` is `DONE`."""
    return name.removeprefix(prefix)


def printable(text: str) -> str:
    """Text from outside without control characters, which could drive the terminal; line ends and tabs stay."""
    return _CONTROLS.sub("", text)


def counted(number: int, noun: str) -> str:
    """`1 session`, `2 sessions`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def natural(name: str) -> list[tuple[int, str]]:
    """Orders names as people count: `worker-2` before `worker-10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _console(width: int | None) -> Console:
    return Console(width=width, highlight=False, markup=False, emoji=False, no_color=bool(os.environ.get("NO_COLOR")))


def _yaml(documents: list[Any], *, separated: bool) -> str:
    import yaml

    return yaml.safe_dump_all(
        documents, sort_keys=False, allow_unicode=True, width=120, explicit_start=separated, default_flow_style=False
    )
