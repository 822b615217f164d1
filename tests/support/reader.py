"""A reader at two terminals: services stay in one, all else is typed into the other."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from support.console import Command, Step, Written, missing, moved, ports
from support.ports import free
from support.shell import environment

WORKER = re.compile(r"--worker-id (?P<id>\S+)")
LISTEN = re.compile(r"--listen (?P<address>\S+)")
SERVICE = re.compile(r"^(?:[A-Z_]+=\S+ )*troupe (?P<name>up|controlplane|dataplane|llm-sim)\b(?!.*--(?:print|help))")
READY = {"up": "Ctrl-C stops it."}
SERVES = re.compile(r'"event": "(?:serving|simulator serves)"')
WITHIN = 20.0
"""Seconds that a service gets to start, and to stop."""

SETTINGS = """metrics_listen = ""
stop_grace = 0.2
[controlplane]
listen = "127.0.0.1:0"
[dataplane]
listen = "127.0.0.1:0"
health_window = 0.3
drain_timeout = 0.2
[llm-sim]
listen = "127.0.0.1:0"
"""
"""Ports that nobody else has, and less patience than a fleet in production."""


class Reader:
    """One page's home and working directory, with the examples in it. Leave it to end all that was started."""

    def __init__(self, directory: Path, examples: Path, servers: Mapping[str, int] | None = None) -> None:
        """`servers`: the ports that servers listen at, by those that pages give them."""
        self._home, self._place = directory / "home", directory / "work"
        self._home.mkdir()
        shutil.copytree(examples, self._place / "examples", ignore=shutil.ignore_patterns("__pycache__"))
        (self._home / "settings.toml").write_text(SETTINGS)
        self._cwd = self._place
        self._environment = environment(self._home) | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "160",
            "TROUPE_CONFIG": str(self._home / "settings.toml"),
            "TROUPE_TTFT": "constant:0.01",
            "TROUPE_PER_TOKEN": "constant:0.005",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._services: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
        self._groups: list[int] = []
        self._ports: dict[str, int] = dict(servers or {})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            for name in list(self._services):
                self._stop(name, check=kind is None)
        finally:
            for group in self._groups:
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)

    def follow(self, step: Step) -> None:
        """Do it; AssertionError where it does not go as the page says."""
        match step:
            case Written(path, content):
                (self._cwd / path).parent.mkdir(parents=True, exist_ok=True)
                (self._cwd / path).write_text(self._moved(content))
            case Command(place, text, shown, status):
                command = self._moved(text)
                expected = tuple(map(self._moved, shown))
                service = SERVICE.match(text)
                answer = (
                    self._start(service["name"], command) if service and not status else self._type(command, status)
                )
                lacking = missing(expected, answer)
                assert not lacking, f"{place}: `{text}` does not say {lacking!r} there, but:\n{answer}"

    def _type(self, command: str, status: int) -> str:
        state = self._home / "state"
        script = f"{command}\nstatus=$?\n{{ pwd; env -0; }} > {state}\nexit $status"
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=self._cwd,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._groups.append(shell.pid)
        answer, _ = shell.communicate(timeout=45)
        assert shell.returncode == status, f"`{command}` exits {shell.returncode}, not {status}:\n{answer}"
        if state.exists():
            place, _, variables = state.read_text().partition("\n")
            self._cwd = Path(place)
            self._environment = dict(pair.split("=", 1) for pair in variables.split("\0") if pair)
        return answer

    def _start(self, name: str, command: str) -> str:
        service = _terminal(name, command)
        if service in self._services:
            self._stop(service, check=True)
        log = self._home / f"{name}-{len(self._groups)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self._cwd,
                env=self._environment | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._groups.append(process.pid)
        self._services[service] = process, log
        deadline = time.monotonic() + WITHIN
        while not (READY[name] in log.read_text() if name in READY else SERVES.search(log.read_text())):
            assert process.poll() is None, f"`{command}` ended: {log.read_text()}"
            assert time.monotonic() < deadline, f"`{command}` only said: {log.read_text()}"
            time.sleep(0.02)
        return log.read_text()

    def _stop(self, name: str, *, check: bool) -> None:
        process, log = self._services.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        status = process.wait(WITHIN)
        if check:
            said = log.read_text()
            killed_by_the_page = -signal.SIGKILL
            assert status in (0, killed_by_the_page), f"troupe {name} exits {status}: {said}"
            assert "Traceback" not in said, said

    def _moved(self, text: str) -> str:
        for port in sorted(ports(text) - self._ports.keys()):
            (self._ports[port],) = free()
        return moved(text, self._ports)


def _terminal(name: str, command: str) -> str:
    """The one in which a service stays: a worker has its own, and so has each control plane of several."""
    match name:
        case "dataplane":
            named = WORKER.search(command)
            return f"{name} {named['id'] if named else 'worker-0'}"
        case "controlplane":
            listens = LISTEN.search(command)
            return f"{name} {listens['address'] if listens else ''}"
        case _:
            return name
