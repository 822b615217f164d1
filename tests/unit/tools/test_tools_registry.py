"""From a declared Tool to its function."""

import sys
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from troupe.chassis.errors import FailedPrecondition, InvalidArgument, TroupeError, Unimplemented
from troupe.dataplane.tools.registry import resolve
from troupe.v1 import resource_pb2

CALCULATOR = "troupe.dataplane.tools.arithmetic:calculator"
WEATHER = resource_pb2.Metadata(name="weather", namespace="shop")


def spec(entry_point: str, **fields: object) -> resource_pb2.ToolSpec:
    python = resource_pb2.PythonTool(entry_point=entry_point)
    return resource_pb2.ToolSpec(python=python, **fields)  # type: ignore[arg-type]


def test_a_tool_goes_by_the_name_of_its_resource() -> None:
    found = resolve(WEATHER, spec(CALCULATOR))
    assert (found.name, found.resource) == ("weather", "Tool/shop/weather")
    assert found.description.startswith("Computes an arithmetic expression")
    assert (found.idempotent, found.timeout) == (True, 5)
    assert resolve(resource_pb2.Metadata(name="calc"), spec(CALCULATOR)).resource == "Tool/default/calc"


def test_what_the_resource_says_goes_before_what_the_function_says() -> None:
    found = resolve(WEATHER, spec(CALCULATOR, description="Sums.", timeout=Duration(nanos=500_000_000)))
    assert (found.description, found.timeout) == ("Sums.", 0.5)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_either_word_makes_a_tool_idempotent(modules: Path) -> None:
    (modules / "registry_plain.py").write_text(
        "from troupe.dataplane.tools.tool import tool\n@tool\ndef act() -> str:\n  'Acts.'\n  return ''\n"
    )
    assert not resolve(WEATHER, spec("registry_plain:act")).idempotent
    assert resolve(WEATHER, spec("registry_plain:act", idempotent=True)).idempotent


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import registry_missing_dependency", "ModuleNotFoundError: No module named 'registry_missing_dependency'"),
        ("x = 1\nraise RuntimeError('no\\nlicence')", r"RuntimeError: no licence \(.*registry_broken.py:2\)"),
        ("x = 1\ndef f(:", r"SyntaxError: invalid syntax \(.*registry_broken.py:2\)"),
        ("import sys; sys.exit(1)", "SystemExit: 1"),
        (
            "from troupe.dataplane.tools.tool import tool\n@tool\ndef act(what):\n  'Acts.'",
            "TypeError: tool act: parameter what has no type hint",
        ),
    ],
)
def test_a_module_that_cannot_be_imported_says_why(
    modules: Path, monkeypatch: pytest.MonkeyPatch, source: str, why: str
) -> None:
    monkeypatch.delitem(sys.modules, "registry_broken", raising=False)
    (modules / "registry_broken.py").write_text(source)
    with pytest.raises(FailedPrecondition, match=f"importing registry_broken failed with {why}") as raised:
        resolve(WEATHER, spec("registry_broken:act"))
    assert (raised.value.reason, raised.value.resource) == ("TOOL_IMPORT_FAILED", "Tool/shop/weather")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("declared", "kind", "reason", "why"),
    [
        (spec("registry_nowhere:act"), FailedPrecondition, "TOOL_NOT_FOUND", "no module registry_nowhere; install it"),
        (spec("troupe.nowhere.x:act"), FailedPrecondition, "TOOL_NOT_FOUND", "no module troupe.nowhere; install it"),
        (spec("pathlib:act"), FailedPrecondition, "TOOL_NOT_FOUND", "module pathlib has no act"),
        (
            spec("pathlib:Path"),
            InvalidArgument,
            "NOT_A_TOOL",
            "pathlib:Path is not a tool; mark the function with @tool",
        ),
        (spec("pathlib"), InvalidArgument, "BAD_ENTRY_POINT", "'pathlib' is not of the form package.module:function"),
        (spec("../x:act"), InvalidArgument, "BAD_ENTRY_POINT", "is not of the form"),
        (
            spec(CALCULATOR, isolation=resource_pb2.ISOLATION_PROCESS),
            Unimplemented,
            "ISOLATION",
            "isolation PROCESS is not built yet",
        ),
        (
            spec(CALCULATOR, isolation=resource_pb2.ISOLATION_BUBBLEWRAP),
            Unimplemented,
            "ISOLATION",
            "isolation BUBBLEWRAP is not built yet",
        ),
        (spec(CALCULATOR, isolation=99), Unimplemented, "ISOLATION", "isolation 99 is not built yet"),
        (resource_pb2.ToolSpec(), Unimplemented, "TOOL_SOURCE", "only python tools are built"),
    ],
)
def test_what_cannot_be_resolved_names_the_resource(
    declared: resource_pb2.ToolSpec, kind: type[TroupeError], reason: str, why: str
) -> None:
    with pytest.raises(kind, match=why) as raised:
        resolve(WEATHER, declared)
    assert (raised.value.reason, raised.value.resource) == (reason, "Tool/shop/weather")
    assert str(raised.value).startswith("Tool/shop/weather: ")
