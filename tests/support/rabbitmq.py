"""A RabbitMQ of this test run's own: free ports, its own name, data and name server, on this machine only.

`TROUPE_TEST_AMQP_URL` names a server to use in its place. That one can be neither killed nor stopped, and has one
vhost for all tests, which is emptied before each: all of them run in one process (`make test JOBS=0`).
"""

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pika
import pytest
from support import ports

from troupe.broker.rabbitmq import topology

GIVEN_URL = "TROUPE_TEST_AMQP_URL"
START_TIMEOUT = 50.0
STOP_TIMEOUT = 15.0
_INSTALL_TIMEOUT = 600.0
_SHARDS, _POOLS = 128, ("cpu", "encoders", "gpu")
_QUEUES = [queue.name for queue in (topology.marker(_SHARDS), *topology.queues(_SHARDS, _POOLS))]
"""What tests make, of all that a server can keep from one test to the next."""
_PLACES = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "/opt/rabbitmq/sbin/rabbitmq-server")


class CommandFailed(Exception):
    """A command to the node, and what it said."""


@dataclass
class Node:
    """One server process. Its methods block: call those that wait with `asyncio.to_thread` where a loop runs.

    `settings` are lines of its rabbitmq.conf."""

    settings: tuple[str, ...] = ()
    port: int = 0
    _name: str = ""
    _cookie: str = ""
    _directory: Path = field(default_factory=Path)
    _epmd: "subprocess.Popen[bytes] | None" = None
    _server: "subprocess.Popen[bytes] | None" = None
    _environment: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Of the default vhost."""
        return self.url_of("/")

    @property
    def log(self) -> Path:
        return self._directory / "server.log"

    @property
    def pid(self) -> int:
        assert self._server is not None, "the node does not run"
        return self._server.pid

    def url_of(self, vhost: str) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{vhost.replace('/', '%2F')}"

    def start(self) -> None:
        """Start it, on the data of before where it ran before. Returns once it serves."""
        if not self._environment:
            self._prepare()
        with self.log.open("ab") as log:
            self._server = subprocess.Popen(
                [_program()],
                env=self._environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self.serves():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"RabbitMQ did not start: {self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def serves(self, within: float = 1.0) -> bool:
        """Whether it answers the first words of the protocol."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), within) as connection:
            connection.settimeout(within)
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
        return False

    def kill(self) -> None:
        """SIGKILL, now."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order; its data stays."""
        self._end(signal.SIGTERM)

    def close(self) -> None:
        """Kill it, and drop its data."""
        if self._server is not None:
            self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def vhost(self) -> str:
        """Make a vhost; its URL."""
        name = secrets.token_hex(6)
        self.evaluate(
            f'rabbit_vhost:add(<<"{name}">>, <<"test">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>, '
            f'<<".*">>, <<".*">>, <<".*">>, <<"test">>)'
        )
        return self.url_of(name)

    def drop_vhost(self, url: str) -> None:
        """Drop a vhost with all that is in it; connections to it are closed."""
        self.evaluate(f'rabbit_vhost:delete(<<"{url.rpartition("/")[2]}">>, <<"test">>)')

    def block_publishers(self) -> None:
        """Raise the memory alarm: publishing connections are blocked, consumers go on."""
        self.evaluate("vm_memory_monitor:set_vm_memory_high_watermark({absolute, 1})")
        self._await_alarm(raised=True)

    def unblock_publishers(self) -> None:
        self.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.6)")
        self._await_alarm(raised=False)

    def delete_queue(self, url: str, queue: str) -> None:
        """Delete a queue under its consumers, who are told so."""
        self.evaluate(
            f'{{ok, Q}} = rabbit_amqqueue:lookup({{resource, <<"{url.rpartition("/")[2]}">>, queue, '
            f'<<"{queue}">>}}), rabbit_amqqueue:delete(Q, false, false, <<"test">>)'
        )

    def close_connections(self, url: str) -> None:
        """Close the connections to a vhost, as an operator does."""
        vhost = url.rpartition("/")[2]
        self.evaluate(
            '[rabbit_networking:close_connection(Pid, "test") || '
            "Pid <- rabbit_networking:connections(), "
            f'[{{vhost, <<"{vhost}">>}}] =:= rabbit_networking:connection_info(Pid, [vhost])]'
        )

    def evaluate(self, expression: str) -> str:
        """The value of an Erlang expression in the server. Raises CommandFailed."""
        # -R: the node names the caller. Callers of one name are refused until the node has seen the last one go.
        command = ["erl_call", "-R", "-c", self._cookie, "-sname", self._name, "-timeout", "30", "-e"]
        done = subprocess.run(
            command, input=f"{expression}.\n", capture_output=True, text=True, env=self._environment, check=False
        )
        said = (done.stdout + done.stderr).strip()
        if done.returncode != 0 or not said.startswith("{ok,"):
            raise CommandFailed(f"{expression}: {said}")
        return said.removeprefix("{ok,").removesuffix("}").strip()

    def control(self, *arguments: str) -> str:
        """Run one `rabbitmqctl` command; what it printed. Takes about two seconds of CPU. Raises CommandFailed."""
        program = Path(_program()).with_name("rabbitmqctl")
        done = subprocess.run(
            [program, "-n", self._name, *arguments],
            capture_output=True,
            text=True,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode != 0:
            raise CommandFailed(f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def _await_alarm(self, *, raised: bool) -> None:
        deadline = time.monotonic() + 10
        while (self.evaluate("rabbit_alarm:get_alarms()") != "[]") != raised:
            assert time.monotonic() < deadline, f"the memory alarm is not {'raised' if raised else 'cleared'}"
            time.sleep(0.02)

    def _end(self, with_: signal.Signals) -> None:
        server = self._server
        assert server is not None, "the node does not run"
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.pid, with_)
        try:
            server.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        self._server = None

    def _prepare(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="rabbitmq-"))
        self.port, distribution, names = ports.free(3)
        self._name = f"troupe-{os.getpid()}-{self.port}@localhost"
        self._cookie = secrets.token_hex(10)
        configuration = self._directory / "rabbitmq.conf"
        configuration.write_text(
            "\n".join(
                (
                    f"listeners.tcp.1 = 127.0.0.1:{self.port}",
                    "log.file = false",
                    "log.console = true",
                    "log.console.level = warning",
                    "collect_statistics = none",
                    "vm_memory_high_watermark.relative = 0.6",
                    "disk_free_limit.absolute = 50MB",
                    "vm_memory_calculation_strategy = erlang",
                    *self.settings,
                    "",
                )
            )
        )
        for name, text in (("env.conf", ""), ("plugins", "[].\n"), (".erlang.cookie", self._cookie)):
            (self._directory / name).write_text(text)
        (self._directory / ".erlang.cookie").chmod(0o400)
        # It knows of no plugin but the server itself: to read of fifty that stay off is a quarter of its start.
        plugins = self._directory / "known"
        plugins.mkdir()
        for server in Path(_program()).resolve().parents[1].glob("plugins/rabbit-[0-9]*"):
            (plugins / server.name).symlink_to(server)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        self._environment = kept | {
            "HOME": str(self._directory),
            "ERL_EPMD_PORT": str(names),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_CONFIG_FILE": str(configuration),
            "RABBITMQ_CONF_ENV_FILE": str(self._directory / "env.conf"),
            "RABBITMQ_PLUGINS_DIR": str(plugins),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._directory / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self._directory / "data"),
            "RABBITMQ_LOG_BASE": str(self._directory / "log"),
            "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none "
            "-kernel inet_dist_use_interface {127,0,0,1}",
            # Makes the script become the server, so that its pid is the one to signal.
            "RUNNING_UNDER_SYSTEMD": "true",
        }
        self._epmd = subprocess.Popen(
            ["epmd", "-address", "127.0.0.1", "-port", str(names)],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        _await_port(names)


@contextlib.contextmanager
def running(*settings: str) -> Iterator[Node]:
    """A node of one's own, to kill and to stop; gone with its data afterwards."""
    if GIVEN_URL in os.environ:
        pytest.fail(f"this needs a RabbitMQ that it may kill; it cannot run with {GIVEN_URL}")
    node = Node(settings)
    try:
        node.start()
        yield node
    finally:
        node.close()


class Given:
    """The server that TROUPE_TEST_AMQP_URL names."""

    def __init__(self, url: str) -> None:
        if "PYTEST_XDIST_WORKER" in os.environ:
            pytest.fail(
                f"another process of tests would empty the vhost of {GIVEN_URL}; run them in one: make test JOBS=0"
            )
        self.url = url

    def vhost(self) -> str:
        _empty(self.url)
        return self.url

    def drop_vhost(self, url: str) -> None:
        _empty(url)


def _empty(url: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        channel = connection.channel()
        for queue in _QUEUES:
            channel.queue_delete(queue)
    finally:
        connection.close()


def _program() -> str:
    """The server's own start script: not the distribution's wrapper, which wants to be root or `rabbitmq`."""
    found = next((place for place in _PLACES if Path(place).exists()), None) or _generic()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        # RUNLEVEL: no service is started.
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        with contextlib.suppress(subprocess.SubprocessError):
            install = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-y", "-q", "rabbitmq-server"]
            subprocess.run(install, env=environment, capture_output=True, timeout=_INSTALL_TIMEOUT, check=True)
        found = next((place for place in _PLACES if Path(place).exists()), None)
    if found is None:
        pytest.fail(
            "RabbitMQ is not installed, and these tests run against a real one: install the package rabbitmq-server "
            f"(Debian, Ubuntu) or name a server with {GIVEN_URL}=amqp://…"
        )
    return found


def _generic() -> str | None:
    found = shutil.which("rabbitmq-server")
    wrapper = re.compile(rb"rabbitmq-script-wrapper|su rabbitmq")
    return found if found and not wrapper.search(Path(found).read_bytes()) else None


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < deadline, f"nothing listens on port {port}"
            time.sleep(0.02)
        else:
            return
