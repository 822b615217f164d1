"""The generators of the reference say what the code says."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from troupe.chassis.errors import FailedPrecondition, NotFound, TroupeError
from troupe.resources.kinds import SPECS

ROOT = Path(__file__).parents[3]
CLASSES: dict[str, type[TroupeError]] = {"NotFound": NotFound, "FailedPrecondition": FailedPrecondition}


@pytest.fixture
def generation(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The package in docs/, which is no part of the workspace's python path."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    names = ("generation", "generation.markdown", "generation.errors", "generation.manifests", "generation.descriptors")
    modules = [importlib.import_module(name) for name in names]
    yield modules[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == "generation"]:
        del sys.modules[name]


def test_a_table_leaves_out_what_no_row_has_and_escapes_bars(generation: ModuleType) -> None:
    made = generation.markdown.table(["a", "b", "c"], [["1", "", "x|y"], ["2", "", "two\nlines"]])

    assert made == "| a | c |\n| --- | --- |\n| 1 | x\\|y |\n| 2 | two lines |\n"
    assert generation.markdown.table(["a"], []) == ""


@pytest.mark.parametrize(
    ("source", "reason", "sentence"),
    [
        ('raise NotFound("GONE", "no such thing")', "GONE", "no such thing"),
        ('raise errors.NotFound("GONE", f"no {thing}; " "make it")', "GONE", "no …; make it"),
        ('def f():\n    what = f"no {x}"\n    raise NotFound("GONE", what)', "GONE", "no …"),
        ('class NotFound(E):\n    def __init__(self):\n        super().__init__("GONE", "x")', "GONE", "x"),
        ('class NotFound(E):\n    @classmethod\n    def of(cls):\n        return cls("GONE", "x")', "GONE", "x"),
        ('def f(state):\n    return _fail(state, "STEPS", "too many")', "STEPS", "too many"),
    ],
)
def test_reasons_are_found_however_an_error_is_made(
    generation: ModuleType, source: str, reason: str, sentence: str
) -> None:
    assert [(one.reason, one.sentence) for one in generation.errors.reasons(source, CLASSES)] == [(reason, sentence)]


def test_what_is_no_error_is_no_reason(generation: ModuleType) -> None:
    source = 'print("GONE", "x"); NotFound(reason, "x"); NotFound("REFUSED", ""); failure("TOOL_FAILED", why)'

    assert list(generation.errors.reasons(source, CLASSES)) == []


@pytest.mark.parametrize(
    ("comment", "default", "rest"),
    [
        ("Name of a Model. Required.", "required", "Name of a Model."),
        ("Wall time, 1 s to 24 h. Absent means 10 min.", "10 min", "Wall time, 1 s to 24 h."),
        ("No delay is longer. Absent means 1.6 s.", "1.6 s", "No delay is longer."),
        ("Temperature. Absent leaves it to the model server.", "left to the model server", "Temperature."),
        ("Free pairs.", "", "Free pairs."),
    ],
)
def test_a_default_is_read_from_the_comment(generation: ModuleType, comment: str, default: str, rest: str) -> None:
    member = generation.descriptors.Member("field", "string", 1, comment)

    assert generation.manifests.meaning(member) == (default, rest)


@pytest.mark.parametrize("kind", SPECS)
def test_every_field_of_every_kind_is_on_the_page(kind: str) -> None:
    page = (ROOT / "docs/reference/manifests.md").read_text()
    section = page.partition(f"\n## {kind}\n")[2].partition("\n## ")[0]

    for field in SPECS[kind].DESCRIPTOR.fields:
        assert f"| `{field.json_name}` |" in section


def test_every_contract_has_a_comment(generation: ModuleType) -> None:
    for contract in generation.descriptors.contracts():
        assert contract.comment
        for declaration in (*contract.services, *contract.messages, *contract.enums):
            assert declaration.comment, declaration.name
            assert all(member.comment for member in declaration.members), declaration.name


def test_every_variable_that_the_command_line_reads_is_on_the_page_of_settings() -> None:
    page = (ROOT / "docs/reference/settings.md").read_text()
    sources = [path.read_text() for path in (ROOT / "cli/troupe/cli").glob("*.py")]
    read = {name for source in sources for name in re.findall(r'"((?:TROUPE|OPENAI)_[A-Z_]+)"', source)}

    assert read
    assert not [
        name for name in read if f"`{name}`" not in page and f"`{name.removeprefix('TROUPE_').lower()}`" not in page
    ]
