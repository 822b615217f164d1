"""Tables and words in Markdown."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are one line each; empty where there are no rows. A column without any cell is left out."""
    lines = [[cell(one) for one in row] for row in rows]
    if not lines:
        return ""
    kept = [place for place in range(len(head)) if any(line[place] for line in lines)]
    shown = [[line[place] for place in kept] for line in ([list(head), ["---"] * len(head), *lines])]
    return "".join(f"| {' | '.join(line)} |\n" for line in shown)


def cell(text: str) -> str:
    """On one line, with nothing that would end the cell."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """As code; nothing stays nothing."""
    return f"`{text}`" if text else ""


def anchor(heading: str) -> str:
    """What a heading is linked by, as code forges make it."""
    kept = (one for one in heading.lower() if one.isalnum() or one in " -_")
    return "".join(kept).replace(" ", "-")
