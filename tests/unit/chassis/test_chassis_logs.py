import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry import trace

from troupe.chassis import logs, tracing
from troupe.chassis.settings import SecretStr

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_away_from_a_terminal_each_event_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(service="dataplane")
    structlog.get_logger().info("revision applied", revision="r1", worker="worker-0")
    [line] = lines(capsys)
    assert list(line) == ["time", "level", "event", "service", "revision", "worker"]
    assert line["time"].endswith("Z")
    assert {key: line[key] for key in line if key != "time"} == {
        "level": "info",
        "event": "revision applied",
        "service": "dataplane",
        "revision": "r1",
        "worker": "worker-0",
    }


def test_at_a_terminal_lines_are_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure()
    structlog.get_logger().info("revision applied", revision="r1")
    logging.getLogger("grpc").warning("lost %s", "it")
    first, second = stream.getvalue().splitlines()
    assert "revision applied" in first
    assert not first.startswith("{")
    assert "lost it" in second


@pytest.mark.parametrize(("format_", "json_lines"), [("json", True), ("human", False)])
def test_the_format_can_be_forced(capsys: pytest.CaptureFixture[str], format_: Any, json_lines: bool) -> None:
    logs.configure(format_)
    structlog.get_logger().info("here")
    assert capsys.readouterr().err.startswith("{") is json_lines


def test_lines_of_libraries_come_out_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(service="dataplane")
    logging.getLogger("grpc._cython").error("lost %s", "it")
    [line] = lines(capsys)
    assert list(line)[:4] == ["time", "level", "event", "service"]
    assert (line["level"], line["event"], line["service"], line["logger"]) == (
        "error",
        "lost it",
        "dataplane",
        "grpc._cython",
    )


def test_less_severe_lines_than_asked_for_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="warning")
    structlog.get_logger().info("quiet")
    logging.getLogger("grpc").info("quiet")
    structlog.get_logger().warning("loud")
    logging.getLogger("aiohttp.access").info("GET /")
    assert [line["event"] for line in lines(capsys)] == ["loud"]


def test_lines_inside_a_span_carry_its_trace(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    parent = tracing.context(f"00-{TRACE}-b7ad6b7169203331-01")
    with trace.use_span(trace.get_current_span(parent)):
        structlog.get_logger().info("inside")
        logging.getLogger("grpc").warning("inside too")
    structlog.get_logger().info("outside")
    assert [line.get("trace_id") for line in lines(capsys)] == [TRACE, TRACE, None]


def test_lines_within_a_service_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(service="troupe")
    with logs.within("controlplane"):
        structlog.get_logger().info("inside")
        logging.getLogger("grpc").warning("inside too")
    structlog.get_logger().info("outside")
    assert [line["service"] for line in lines(capsys)] == ["controlplane", "controlplane", "troupe"]


@pytest.mark.parametrize("format_", ["json", "human"])
def test_a_traceback_shows_no_values(capsys: pytest.CaptureFixture[str], format_: Any) -> None:
    logs.configure(format_)

    def fail(prompt: str) -> None:
        hidden = prompt.upper()
        raise ValueError(len(hidden))

    try:
        fail("open sesame")
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("asyncio").exception("failed too")
    written = capsys.readouterr().err
    assert written.count("Traceback") == 2
    assert written.count("ValueError: 11") == 2
    assert "SESAME" not in written
    if format_ == "json":
        assert [json.loads(line)["event"] for line in written.splitlines()] == ["failed", "failed too"]


def test_secrets_stay_secret(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    structlog.get_logger().info("connecting", key=SecretStr("sesame"))
    written = capsys.readouterr().err
    assert "connecting" in written
    assert "sesame" not in written


def test_a_reader_that_went_away_does_not_take_the_service_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(text)

    monkeypatch.setattr(sys, "stderr", Broken())
    logs.configure()
    structlog.get_logger().info("into the void")


def test_a_library_leaves_logging_to_the_program(caplog: pytest.LogCaptureFixture) -> None:
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    logs.configure_library()
    with caplog.at_level("INFO", "troupe"), logs.within("dataplane"):
        structlog.get_logger().debug("not asked for")
        structlog.get_logger().info("revision applied", revision="r1")
    assert [(record.name, record.levelname) for record in caplog.records] == [("troupe", "INFO")]
    assert caplog.records[0].getMessage() == "revision applied revision=r1 service=dataplane"
    assert (root.level, root.handlers[:]) == before


def test_a_library_writes_warnings_with_their_tracebacks_where_nobody_set_up_logging(tmp_path: Path) -> None:
    script = """
import structlog
from troupe.chassis import logs
logs.configure_library()
log = structlog.get_logger()
log.info("nothing to see")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("broken", secret="no locals")
"""
    run = subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout == ""
    assert run.stderr.startswith("broken")
    assert "ZeroDivisionError: division by zero" in run.stderr
    assert "nothing to see" not in run.stderr
