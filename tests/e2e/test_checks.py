"""The checks look: an error planted in each package is found."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

PLANTED = {
    "chassis": "chassis/troupe/chassis/clock.py",
    "resources": "resources/troupe/resources/content.py",
    "broker": "broker/troupe/broker/order.py",
    "controlplane": "controlplane/troupe/controlplane/placement.py",
    "dataplane": "dataplane/troupe/dataplane/actors/inbox.py",
    "llm-sim": "llm-sim/troupe/llm_sim/tokens.py",
    "cli": "cli/troupe/cli/output.py",
    "tests": "tests/support/up.py",
}

PACKAGES = ("protos", *(package for package in PLANTED if package != "tests"))
# What `lint-imports` runs, with the copies in place of the packages that are installed from the checkout.
LINT = """
import sys
from pathlib import Path
from importlinter.cli import lint_imports
root, *copies = sys.argv[1:]
packages = {str(Path(root) / Path(copy).name) for copy in copies}
sys.path[:] = [*copies, *(path for path in sys.path if path and path not in packages)]
sys.exit(lint_imports(config_filename=f"{root}/pyproject.toml", no_cache=True))
"""


def test_mypy_finds_an_error_in_every_package(tmp_path: Path) -> None:
    # Given one wrong line at the end of one module of each package
    shadows = []
    for package, source in PLANTED.items():
        shadow = tmp_path / f"{package}.py"
        shadow.write_text((ROOT / source).read_text() + "\nPLANTED: int = 'no number'\n")
        shadows += ["--shadow-file", source, str(shadow)]
    # When mypy runs as `make check` runs it
    ran = subprocess.run([BIN / "mypy", *shadows], cwd=ROOT, capture_output=True, text=True, check=False)
    # Then it names each of them
    assert ran.returncode == 1
    for source in PLANTED.values():
        assert any(line.startswith(source) and "assignment" in line for line in ran.stdout.splitlines()), source


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("chassis/troupe/chassis/clock.py", "troupe.broker.order"),
        ("broker/troupe/broker/order.py", "troupe.dataplane.settings"),
        ("controlplane/troupe/controlplane/placement.py", "troupe.dataplane.settings"),
        ("llm-sim/troupe/llm_sim/tokens.py", "troupe.controlplane.settings"),
    ],
)
def test_import_linter_finds_an_import_that_goes_up_or_sideways(tmp_path: Path, importer: str, imported: str) -> None:
    # Given a copy of all packages, with an import in one that its layer may not have
    for package in PACKAGES:
        for path in (ROOT / package / "troupe").rglob("*.py"):
            target = tmp_path / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(path.read_text())
    planted = tmp_path / importer
    planted.write_text(f"import {imported}\n{planted.read_text()}")
    # When import-linter looks at the copies
    ran = subprocess.run(
        [sys.executable, "-c", LINT, str(ROOT), *(str(tmp_path / package) for package in PACKAGES)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    # Then the layers are broken, by that import
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert imported in ran.stdout
