"""Fleets in which nobody has a certificate for clients: processes and users show tokens."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.credentials import Files, Tokens, certificates
from support.shell import command, troupe
from support.terminals import EXAMPLE, FAST, Terminal, terminal, up

_SERVING = re.compile(r'"(?:listen": "|url": "http://)(127\.0\.0\.1:[0-9]+)')
START = 40.0
"""Seconds that a process gets to begin."""


class TokenFleet:
    """A control plane, a worker and a simulator that serve with TLS, each in a terminal of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files: Files = certificates(directory / "certs", "worker-0")
        self.tokens = Tokens(directory / "tokens.toml")
        self.admin, self.client = self.tokens.add("root", "admin"), self.tokens.add("desk", "client")

    @contextmanager
    def running(self) -> Iterator[dict[str, str]]:
        """The variables of its users, who have no token yet."""
        with (
            self._service("llm-sim") as simulator,
            self._secured("controlplane", "controlplane", "controlplane") as server,
            self._secured(
                "dataplane",
                "worker-0",
                "worker",
                *("--server", server, "--worker-id", "worker-0", "--llm", f"http://{simulator}/v1", "--model", "sim"),
            ) as gateway,
        ):
            yield {"TROUPE_SERVER": server, "TROUPE_GATEWAY": gateway, "TROUPE_TLS_CA": str(self.files.ca)}

    @contextmanager
    def _secured(self, service: str, name: str, role: str, *more: str) -> Iterator[str]:
        token = self.directory / f"{name}.token"
        token.write_text(self.tokens.add(name, role))
        shown = self.files.settings(name)
        flags = {
            "data": self.directory / name,
            "tokens": self.tokens.path,
            "token": f"@{token}",
            "tls-cert": shown["tls_cert"],
            "tls-key": shown["tls_key"],
            "tls-trust": self.files.ca,
        }
        arguments = [text for flag, value in flags.items() for text in (f"--{flag}", str(value))]
        with self._service(service, *arguments, *more) as address:
            yield address

    @contextmanager
    def _service(self, name: str, *flags: str) -> Iterator[str]:
        given = command("troupe.cli.main", name, "--listen", "127.0.0.1:0", "--log-format", "json", *flags)
        with terminal(self.directory, name, given, FAST) as opened:
            yield serving(opened)


def serving(opened: Terminal) -> str:
    """Where it serves, once it does."""
    text = opened.until(lambda text: _SERVING.search(text) is not None, START)
    found = _SERVING.search(text)
    assert found is not None
    return found[1]


def test_processes_that_show_tokens_serve_users_that_show_tokens(tmp_path: Path) -> None:
    fleet = TokenFleet(tmp_path)
    with fleet.running() as users:
        admin, desk = users | {"TROUPE_TOKEN": fleet.admin}, users | {"TROUPE_TOKEN": fleet.client}

        applied = troupe(tmp_path, "apply", "-f", str(EXAMPLE), "--wait", "--timeout", "30s", more=admin)
        assert applied.returncode == 0, applied.stdout + applied.stderr
        assert "worker-0: APPLIED" in applied.stdout

        answer = troupe(tmp_path, "chat", "clerk", "-m", "What is 6 * 7?", more=desk)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert "42" in answer.stdout

        for variables, reason in ((users, "carries no credential"), (desk, "needs the role")):
            refused = troupe(tmp_path, "status", more=variables)
            assert (refused.returncode, reason in refused.stderr) == (1, True), refused.stderr
    said = "".join(log.read_text() for log in tmp_path.glob("*.log"))
    tokens = [fleet.admin, fleet.client, *(path.read_text() for path in tmp_path.glob("*.token"))]
    assert not any(token in said for token in tokens)


def test_a_fleet_in_one_process_shows_itself_one_token(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "tokens.toml")
    own = tmp_path / "own.token"
    own.write_text(tokens.add("worker-0", "controlplane", "worker", "admin"))
    desk = tokens.add("desk", "client")
    with up(tmp_path, str(EXAMPLE), variables=FAST | {"TROUPE_TOKENS": str(tokens.path), "TROUPE_TOKEN": f"@{own}"}):
        answer = troupe(tmp_path, "chat", "clerk", "-m", "What is 6 * 7?", more={"TROUPE_TOKEN": desk})
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert "42" in answer.stdout
        status = troupe(tmp_path, "status", more={"TROUPE_TOKEN": f"@{own}"})
        assert "1 of 1 workers healthy" in status.stdout
        assert troupe(tmp_path, "status").returncode == 1
