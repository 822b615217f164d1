"""What several contract suites run over."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support import redis_server
from support.brokers import BACKENDS, Backend, Opened
from support.hosting import Backends
from support.state_stores import STORES, StoreTime, opening, time_of

from troupe.chassis.ids import uuid7
from troupe.dataplane import watchdog
from troupe.dataplane.state.port import StateStore

ON_SERVERS = (
    "test_turns_recovery",
    "test_turns_faults",
    "test_turns_pause",
    "test_turns_promises",
    "test_turns_schedule",
    "test_turns_batch",
    "test_turns_results",
)
"""Suites of turns that also run on RabbitMQ and Redis: those in which workers die between two steps, or the store's
scripts decide what goes on."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backends" in metafunc.fixturenames:
        suite = metafunc.module.__name__.rpartition(".")[2]
        kinds = ["memory", "sqlite", *(["servers"] if suite in ON_SERVERS else [])]
        metafunc.parametrize("backends", kinds, indirect=True)


@pytest.fixture(autouse=True)
def _blocked_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a loop comes to nothing says how busy the machine is, for which no revision is rolled back here."""
    monkeypatch.setattr(watchdog, "LATE", 60.0)


@pytest.fixture
def backends(request: pytest.FixtureRequest, tmp_path: Path) -> Backends:
    """Mailboxes and state, in memory, in files, or on RabbitMQ and Redis."""
    match request.param:
        case "memory":
            return Backends()
        case "sqlite":
            return Backends(f"sqlite:///{tmp_path}/broker.db", f"sqlite:///{tmp_path}/state.db")
        case _:
            return Backends(request.getfixturevalue("amqp_url"), redis_server.shared().url(uuid7()))


@pytest.fixture(params=STORES)
def store_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store_time(store_backend: str) -> StoreTime:
    """The store's own clock."""
    return time_of(store_backend)


@pytest.fixture
async def store(store_backend: str, store_time: StoreTime, tmp_path: Path) -> AsyncIterator[StateStore]:
    """An empty session store, of each backend."""
    async with opening(store_backend, tmp_path, clock=store_time) as opened:
        yield opened


@pytest.fixture(params=BACKENDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Opens a broker; where it is durable, the same one each time."""
    return _opened(BACKENDS[request.param], request, tmp_path)


@pytest.fixture(params=[name for name, backend in BACKENDS.items() if backend.durable])
def reopened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """As `opened`, durable backends only."""
    return _opened(BACKENDS[request.param], request, tmp_path)


def _opened(backend: Backend, request: pytest.FixtureRequest, directory: Path) -> Opened:
    return Opened(backend, directory, request.getfixturevalue(backend.server) if backend.server else "")
