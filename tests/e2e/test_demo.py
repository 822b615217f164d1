"""`make demo`, as its command runs it."""

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support import ports
from support.shell import command, environment

FAST = ports.ELSEWHERE | {"TROUPE_TTFT": "constant:0.01", "TROUPE_PER_TOKEN": "constant:0.002"}


def demo(directory: Path, variables: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command("troupe.cli.demo"),
        cwd=directory,
        env=environment(directory, FAST | (variables or {})),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def check(run: "subprocess.CompletedProcess[str]") -> None:
    """It asked, called the tool, answered, and accounted for the time."""
    assert (run.returncode, run.stderr) == (0, ""), run.stdout
    assert "you> What is 123456789 * 987654321?" in run.stdout
    assert '→ calculator(expression="123456789 * 987654321")' in run.stdout
    assert "← calculator 121932631112635269" in run.stdout
    rows = run.stdout.partition("where the time went")[2].splitlines()[1:]
    times = {line[:20].strip(): Decimal(line[20:].split()[0].replace(",", "")) for line in rows if " ms " in line}
    assert list(times)[-2:] == ["residual", "wall"]
    wall = times.pop("wall")
    assert sum(times.values()) == wall > 0


def test_it_runs_on_a_new_directory_and_again_on_a_used_one(tmp_path: Path) -> None:
    first, second = demo(tmp_path), demo(tmp_path)
    check(first)
    check(second)
    assert (tmp_path / ".troupe/demo").is_dir()
    assert "revision 1, unchanged" in second.stdout
    assert not (tmp_path / ".troupe/demo/endpoints.json").exists()


def test_it_runs_where_the_default_ports_are_busy(tmp_path: Path) -> None:
    with ports.taken():
        check(demo(tmp_path, {"TROUPE_CONFIG": ""}))


@pytest.mark.parametrize("moment", ["fleet", "you>", "count"])
def test_ctrl_c_stops_it_at_once_and_it_runs_again(tmp_path: Path, moment: str) -> None:
    slow = FAST | {"TROUPE_TTFT": "constant:1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command("troupe.cli.demo"),
        cwd=tmp_path,
        env=environment(tmp_path, slow),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith((moment, "→")):
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == ""
    check(demo(tmp_path))


class Talker(BaseHTTPRequestHandler):
    """A model that answers out of its head."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for delta, reason in (({"role": "assistant", "content": "About 10^17."}, None), ({}, "stop")):
            chunk = {
                "id": "x",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "talker",
                "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
            }
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def talker() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Talker) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("variable", ["TROUPE_LLM", "OPENAI_BASE_URL"])
def test_a_model_of_ones_own_is_used_and_need_not_call_the_tool(tmp_path: Path, variable: str) -> None:
    with talker() as url:
        run = demo(tmp_path, {variable: url, "TROUPE_MODEL": "talker"})
    assert run.returncode == 0, run.stderr
    assert f"model    talker at {url}" in run.stdout
    assert "About 10^17." in run.stdout
    assert "The model answered without calling the tool calculator" in run.stdout
