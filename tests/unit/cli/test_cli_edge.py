"""Exit codes and one-line errors, as a shell sees them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from troupe.chassis.errors import InvalidArgument, NotFound
from troupe.cli.edge import Refused, reported

HEAVY = ("aiohttp", "opentelemetry", "pydantic_settings", "structlog", "prometheus_client")
SERVICES = ("troupe.controlplane", "troupe.dataplane", "troupe.llm_sim", "troupe.broker")


def troupe(*arguments: str, directory: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "troupe.cli.main", *arguments],
        env={"PATH": os.environ["PATH"], "TROUPE_DATA": str(directory), "HOME": str(directory)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (NotFound("X", "no such\nthing;   do this"), 1, "error: no such thing; do this\n"),
        (InvalidArgument("X", "this is wrong"), 2, "error: this is wrong\n"),
        (Refused(), 1, ""),
        (Refused(2), 2, ""),
        (KeyboardInterrupt(), 130, ""),
        (
            ExceptionGroup("tasks", [ExceptionGroup("more", [NotFound("X", "inner")]), ValueError()]),
            1,
            "error: inner\n",
        ),
    ],
)
def test_what_is_raised_is_one_line_and_a_code(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, reported(debug=False):
        raise error
    assert ended.value.exit_code == code
    assert capsys.readouterr().err == said


def test_a_defect_says_that_it_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, reported(debug=False):
        raise ZeroDivisionError("by zero")
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err.startswith("error: ZeroDivisionError: by zero; this is a defect of troupe; ")


def test_what_is_typed_in_another_encoding_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    typed = os.fsdecode(b"caf\xe9")
    with pytest.raises(typer.Exit) as ended, reported(debug=False):
        typed.encode()
    assert ended.value.exit_code == 2
    assert "no UTF-8" in capsys.readouterr().err


def test_debug_adds_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), reported(debug=True):
        raise NotFound("X", "no such thing")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "error: no such thing"


def test_an_unknown_command_is_one_line_and_exit_2(tmp_path: Path) -> None:
    run = troupe("aply", directory=tmp_path)
    assert run.returncode == 2
    assert run.stderr.startswith("error: No such command 'aply'")
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [("get", "agents", "--nope"), ("get",), ("get", "agents", "-o", "xml")])
def test_wrong_options_are_one_line_and_exit_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    run = troupe(*arguments, directory=tmp_path)
    assert (run.returncode, len(run.stderr.splitlines())) == (2, 1)
    assert "see `troupe get --help`" in run.stderr


def test_a_service_with_a_wrong_setting_says_which_and_exits_2(tmp_path: Path) -> None:
    run = troupe("controlplane", "--lease", "soon", directory=tmp_path)
    assert run.returncode == 2
    assert run.stderr.startswith("error: --lease: ")
    assert len(run.stderr.splitlines()) == 1


def test_settings_are_printed_with_secrets_masked(tmp_path: Path) -> None:
    run = troupe("dataplane", "--print-settings", "--llm-key", "sesame", "--listen", "127.0.0.1:1", directory=tmp_path)
    assert run.returncode == 0
    assert 'listen = "127.0.0.1:1"' in run.stdout.splitlines()
    assert "sesame" not in run.stdout


def test_help_works_without_a_command_and_for_a_group(tmp_path: Path) -> None:
    for arguments in ((), ("-h",), ("message",), ("message", "--help")):
        run = troupe(*arguments, directory=tmp_path)
        assert (run.returncode, run.stderr) == (0, "")
        assert "Usage: troupe" in run.stdout


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """Given a pipe whose reader is gone, when a command writes, then it says nothing."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        run = subprocess.run(
            [sys.executable, "-m", "troupe.cli.main", "doctor", "-o", "json"],
            env={"PATH": os.environ["PATH"], "TROUPE_DATA": str(tmp_path), "HOME": str(tmp_path)},
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("module", ["main", "get", "apply", "chat", "send", "status", "doctor", "up"])
def test_client_commands_import_no_service_and_nothing_heavy(module: str) -> None:
    code = f"import sys, troupe.cli.{module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = run.stdout.split()
    assert [name for name in loaded if name.startswith((*HEAVY, *SERVICES))] == []
    if module == "main":
        assert "grpc" not in loaded


def test_a_fleet_imports_no_client_that_it_may_not_need() -> None:
    """Those of servers, of other people's stores, and what checks tokens come with the setting that asks for them."""
    code = "import sys, troupe.cli.fleet; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert {"redis", "pika", "fsspec", "jwt", "cryptography"} & set(run.stdout.split()) == set()
