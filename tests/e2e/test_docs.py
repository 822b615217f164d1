"""The documentation tells the truth: what it shows is typed for real, what it names exists, its links lead there."""

import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import rabbitmq, redis_server
from support.console import Command, NotRun, steps
from support.reader import Reader
from typer.main import get_command

from troupe.cli.main import ENTRIES, application, loaded

ROOT = Path(__file__).parents[2]
FOLLOWED = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*/README.md")])
PAGES = sorted({*FOLLOWED, *ROOT.glob("*.md"), *ROOT.glob("*/README.md")})
LINK = re.compile(r"\[[^\]]*\]\((?!https?://|mailto:)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
HERE = re.compile(r"(?<![\w.~$}])/(?:root|home|work|Users|mnt)/")
NEEDED = ("curl", "openssl")

NOT_RUN = [step for page in FOLLOWED for step in steps(page) if isinstance(step, NotRun)]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def with_commands() -> list[Path]:
    return [page for page in FOLLOWED if any(isinstance(step, Command) for step in steps(page))]


@pytest.mark.parametrize("page", with_commands(), ids=name)
def test_a_reader_who_types_a_page_sees_what_it_shows(page: Path, tmp_path: Path) -> None:
    todo = steps(page)
    typed = " ".join(step.text for step in todo if isinstance(step, Command))
    for program in NEEDED:
        if re.search(rf"\b{program}\b", typed) and shutil.which(program) is None:
            pytest.skip(f"the page needs {program}, which is not installed here")
    with ExitStack() as servers:
        reader = servers.enter_context(Reader(tmp_path, ROOT / "examples", _servers(typed, tmp_path, servers)))
        for step in todo:
            reader.follow(step)


def _servers(typed: str, directory: Path, servers: ExitStack) -> dict[str, int]:
    """Those that a page takes to run at their usual ports, at ports of their own."""
    if "amqp://" not in typed:
        return {}
    (directory / "redis").mkdir()
    redis = servers.enter_context(redis_server.running(directory / "redis"))
    return {"5672": servers.enter_context(rabbitmq.running()).port, "6379": redis.port}


@pytest.mark.parametrize("block", NOT_RUN, ids=lambda block: block.place)
def test_a_block_that_nobody_types_says_why(block: NotRun) -> None:
    assert len(block.reason.split()) > 1
    pytest.skip(f"not run, {block.reason}")


def test_every_command_and_option_is_in_the_reference() -> None:
    page = (ROOT / "docs/reference/commands.md").read_text()
    wanted = {option for one in get_command(application()).params for option in one.opts}
    for entry in ENTRIES:
        command = loaded(entry)
        for path, leaf in leaves(f"troupe {entry.name}", command):
            section = re.search(rf"^## {re.escape(path)}$(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
            assert section, f"{path} is not in commands.md"
            for one in leaf.params:  # type: ignore[attr-defined]
                spelled = max(one.opts, key=len) if one.param_type_name == "option" else one.metavar
                assert f"`{spelled}`" in section[1] + "`--help`", f"{path} {spelled} is not in commands.md"
                wanted |= set(one.opts) if one.param_type_name == "option" else set()
    assert not [option for option in wanted if f"`{option}`" not in page]


def leaves(path: str, command: object) -> list[tuple[str, object]]:
    below = getattr(command, "commands", None)
    if below is None:
        return [(path, command)]
    return [leaf for each, one in below.items() for leaf in leaves(f"{path} {each}", one)]


def test_the_generated_pages_are_current() -> None:
    check = subprocess.run(
        [sys.executable, ROOT / "docs/generate.py", "--check"], capture_output=True, text=True, timeout=50, check=False
    )
    assert check.returncode == 0, check.stderr


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_local_link_resolves(page: Path) -> None:
    for link in LINK.finditer(CODE.sub("", page.read_text())):
        target = (page.parent / link["path"]).resolve() if link["path"] else page
        assert target.exists(), f"{name(page)} links to {link['path']}, which is not there"
        if link["anchor"]:
            assert link["anchor"] in anchors(target), f"{name(page)} links to {link[0]}, which has no such heading"


def anchors(page: Path) -> set[str]:
    headings = HEADING.findall(page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_page_names_a_place_of_one_machine(page: Path) -> None:
    text = page.read_text()
    found = HERE.search(text)
    assert not found, f"{name(page)}: …{text[found.start() - 40 : found.end() + 40]}…"
    assert str(Path.home()) not in text or Path.home() == Path("/")


def test_pages_of_the_tutorial_show_the_example_as_it_is() -> None:
    shown = (ROOT / "docs/tutorial/first-fleet.md").read_text()
    for file in ("shop.py", "fleet.yaml"):
        content = (ROOT / "examples/own-tool" / file).read_text()
        assert content in shown, f"the tutorial shows another examples/own-tool/{file}"
