"""How pages are read: what is typed, what must come, what is not run."""

from pathlib import Path

import pytest
from support.console import Command, NotRun, Written, missing, moved, ports, steps


def page(tmp_path: Path, text: str) -> Path:
    written = tmp_path / "page.md"
    written.write_text(text)
    return written


def test_a_page_is_its_files_and_commands_in_order(tmp_path: Path) -> None:
    text = (
        "# A\n\n<!-- file: a.py -->\n```python\nx = 1\n```\n\n```console\n$ one\nsays 1\n$ two \\\n> more\n```\n\n"
        "<!-- fails: 2 -->\n```console\n$ three\n```\n\n<!-- not run: it is dear -->\n```console\n$ four\n```\n\n"
        "```python\nnot for the reader\n```\n"
    )

    assert steps(page(tmp_path, text)) == [
        Written("a.py", "x = 1\n"),
        Command("page.md:9", "one", ("says 1",)),
        Command("page.md:9", "two \\\nmore", ()),
        Command("page.md:17", "three", (), 2),
        NotRun("page.md:22", "it is dear"),
    ]


def test_a_console_block_without_a_command_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"page.md:2: a console block needs"):
        steps(page(tmp_path, "```console\nonly an answer\n```\n"))


@pytest.mark.parametrize(
    ("shown", "lacking"),
    [
        (("a  b", "…", "wall … 100 %"), ""),
        (("wall", "a b"), "a b"),
        (("wall … 99 %",), "99 %"),
        (("…",), ""),
        ((), ""),
    ],
)
def test_what_is_shown_must_come_in_its_order(shown: tuple[str, ...], lacking: str) -> None:
    assert missing(shown, "a b\n\nresidual\nwall   1.2 ms  100 %\n") == lacking


def test_ports_of_loopback_move_and_no_others() -> None:
    text = "curl 127.0.0.1:7070 http://127.0.0.1:7071/v1 0.0.0.0:7070 127.0.0.1:0"

    assert ports(text) == {"7070", "7071"}
    assert moved(text, {"7070": 1, "7071": 2}) == "curl 127.0.0.1:1 http://127.0.0.1:2/v1 0.0.0.0:7070 127.0.0.1:0"
