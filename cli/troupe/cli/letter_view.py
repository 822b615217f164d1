"""Dead letters for people: a line for each, and one with all that is known of it."""

import re
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from troupe.cli import moments, names
from troupe.cli.columns import age
from troupe.cli.output import counted, printable, table
from troupe.v1.dead_letter_pb2 import DeadLetter, GetDeadLetterResponse
from troupe.v1.envelope_pb2 import Content, Death

LEAST_ERROR = 20
"""Columns below which an error says nothing."""
GAP = 3
"""Columns between those of a table."""
TITLE = 15
"""Columns of what stands before each fact about a letter."""
HEAD = 64
"""Bytes that are shown of what is no text."""

_TEXT = re.compile(r"text/|application/(?:[\w.+-]+\+)?(?:json|xml|yaml)\b")


def letter_table(letters: Sequence[DeadLetter], room: int | None) -> Table:
    """One line for each. The error gets what is left of `room` columns, if that is worth while; all of it in None."""
    columns = ["LETTER", "SESSION", "REASON", "ATTEMPTS", "AGE"]
    rows: list[list[RenderableType]] = [
        [
            one.letter_id,
            printable(names.shown(one.session)) if one.HasField("session") else "-",
            printable(one.death.reason),
            str(one.death.attempts),
            age(one.death.last_failed),
        ]
        for one in letters
    ]
    taken = sum(max(cell_len(str(cell)) for cell in column) + GAP for column in zip(columns, *rows, strict=True))
    if room is None or room - taken >= LEAST_ERROR:
        columns.append("ERROR")
        for row, one in zip(rows, letters, strict=True):
            error = Text(one_line(one.death.error))
            error.truncate(room - taken if room else error.cell_len, overflow="ellipsis")
            row.append(error)
    return table(columns, rows, right=("ATTEMPTS", "AGE"))


def letter_view(response: GetDeadLetterResponse) -> Group:
    """All that is known of one, then what its message said."""
    letter, death = response.letter, response.letter.death
    rows = {
        "letter": letter.letter_id,
        "pool": letter.pool,
        "message": name(letter),
        "reason": death.reason,
        "error": death.error,
        "attempts": str(death.attempts),
        "first failed": moments.shown(death.first_failed),
        "given up": moments.shown(death.last_failed),
        "worker": death.worker_id or "-",
        "revision": death.revision_id or "-",
        "trace": death.trace_id,
        "sent": moments.shown(letter.first_sent),
        "sent by": names.shown(letter.source) if letter.HasField("source") else "a client",
        "redriven": counted(letter.redrives, "time") if letter.redrives else "",
        "earlier": "\n".join(_earlier(one) for one in letter.earlier),
        "size": counted(letter.size, "byte"),
    }
    facts = Text("\n").join(_fact(title, printable(value)) for title, value in rows.items() if value)
    if response.HasField("content"):
        return Group(facts, Text(), _said(response.content))
    return Group(facts, Text(), Text("its body could not be decoded:", style="yellow"), hex_view(response.body))


def name(letter: DeadLetter) -> str:
    """The message of the letter, as `troupe message show` takes it; `-` where it is not known."""
    return printable(names.shown(letter.session, letter.message_id)) if letter.HasField("session") else "-"


def one_line(text: str) -> str:
    """The text without line ends and what could drive a terminal."""
    return " ".join(printable(text).split())


def hex_view(body: bytes) -> Text:
    """The first bytes, sixteen to a line, and how many more there are."""
    lines = []
    for start in range(0, min(len(body), HEAD), 16):
        part = body[start : min(start + 16, HEAD)]
        readable = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in part)
        lines.append(f"{start:04x}  {part.hex(' '):<47}  {readable}")
    if len(body) > HEAD:
        lines.append(f"… {counted(len(body) - HEAD, 'more byte')}; -o json has them")
    return Text("\n".join(lines))


def _fact(title: str, value: str) -> Text:
    """No table: it would fill every line up to its longest, and a terminal fold them all."""
    return Text.assemble((f"{title:<{TITLE}}", "bold"), value.replace("\n", "\n" + " " * TITLE))


def _earlier(death: Death) -> str:
    worker = f" on {death.worker_id}" if death.worker_id else ""
    after = counted(death.attempts, "attempt")
    return f"{moments.shown(death.last_failed)}{worker} after {after}: {death.reason}: {one_line(death.error)}"


def _said(content: Content) -> RenderableType:
    if content.WhichOneof("body") != "data":
        return Text(printable(content.text))
    kind, value = content.data.content_type, content.data.value
    title = Text(f"{printable(kind) or 'data'}, {counted(len(value), 'byte')}:", style="bold")
    try:
        return Group(title, Text(printable(value.decode())) if _TEXT.match(kind) else hex_view(value))
    except UnicodeDecodeError:
        return Group(title, hex_view(value))
