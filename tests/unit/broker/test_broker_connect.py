"""From a URL to a broker."""

from pathlib import Path

import pytest

from troupe.broker.connect import connected
from troupe.broker.memory import MemoryBroker
from troupe.broker.sqlite import SqliteBroker
from troupe.chassis.errors import InvalidArgument


async def test_memory_is_a_broker_of_this_process() -> None:
    async with connected("memory://") as broker:
        assert isinstance(broker, MemoryBroker)


async def test_sqlite_with_four_slashes_is_an_absolute_path(tmp_path: Path) -> None:
    async with connected(f"sqlite:///{tmp_path}/deep/broker.db") as broker:
        assert isinstance(broker, SqliteBroker)

    assert (tmp_path / "deep/broker.db").exists()


async def test_sqlite_with_three_slashes_is_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async with connected("sqlite:///broker.db"):
        pass

    assert (tmp_path / "broker.db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory",
        "memory:",
        "memory://x",
        "sqlite",
        "sqlite://",
        "sqlite:///",
        "sqlite://broker.db",
        "sqlite:///:memory:",
        "redis://localhost",
        "/var/lib/broker.db",
    ],
)
async def test_any_other_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument, match="the URL must be amqp://…, sqlite:///PATH or memory://"):
        async with connected(url):
            pass
