"""Pages as a reader follows them: their ```console blocks are typed into a shell, their files are written.

A line that begins with `$ ` is a command, `> ` goes on with it, the lines after it are what it answers: each must come
in that order, `…` stands for anything, and runs of spaces count as one. A comment on the line above a block says more:

`<!-- not run: REASON -->`  nobody types it; `<!-- fails: 2 -->`  its last command exits so;
`<!-- file: PATH -->`  the block is what the reader writes into that file.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(
    r"(?:^<!-- (?P<directive>not run|fails|file): (?P<value>.+?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
_LOOPBACK = re.compile(r"\b127\.0\.0\.1:(?P<port>[1-9]\d*)\b")


@dataclass(frozen=True, slots=True)
class Command:
    """One command, what the page shows of its answer, and how it exits."""

    place: str
    text: str
    shown: tuple[str, ...]
    exit_status: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """A file that the page has its reader write."""

    path: str
    content: str


@dataclass(frozen=True, slots=True)
class NotRun:
    """A block that nobody types, and why."""

    place: str
    reason: str


Step = Command | Written | NotRun


def steps(page: Path) -> list[Step]:
    """What a reader of the page does, in order."""
    text = page.read_text(encoding="utf-8")
    return [step for block in _BLOCK.finditer(text) for step in _steps(block, page.name, text)]


def _steps(block: "re.Match[str]", name: str, text: str) -> Iterator[Step]:
    place = f"{name}:{text.count(chr(10), 0, block.start('body')) + 1}"
    body = block["body"]
    match block["directive"], block["language"]:
        case "file", _:
            yield Written(block["value"], body)
        case "not run", _:
            yield NotRun(place, block["value"])
        case directive, "console":
            found = list(_commands(body.splitlines(), place))
            last = int(block["value"]) if directive == "fails" else 0
            yield from found[:-1]
            yield Command(place, found[-1].text, found[-1].shown, last)


def _commands(lines: list[str], place: str) -> Iterator[Command]:
    text, shown = "", list[str]()
    for line in lines:
        if line.startswith("$ "):
            if text:
                yield Command(place, text, tuple(shown))
            text, shown = line[2:], []
        elif line.startswith("> ") and not shown:
            text += "\n" + line[2:]
        else:
            shown.append(line)
    if not text:
        raise AssertionError(f"{place}: a console block needs a line that begins with `$ `")
    yield Command(place, text, tuple(shown))


def missing(shown: tuple[str, ...], answer: str) -> str:
    """The first piece of what is shown that does not come, in its order, in the answer; empty where all do."""
    rest = " ".join(answer.split())
    for line in shown:
        for piece in filter(None, (" ".join(part.split()) for part in line.split("…"))):
            _, found, after = rest.partition(piece)
            if not found:
                return piece
            rest = after
    return ""


def ports(text: str) -> set[str]:
    """The loopback ports that a text names."""
    return {found["port"] for found in _LOOPBACK.finditer(text)}


def moved(text: str, to: dict[str, int]) -> str:
    """The same text with its loopback ports replaced, so that pages run beside whatever has them."""
    return _LOOPBACK.sub(lambda found: f"127.0.0.1:{to[found['port']]}", text)
