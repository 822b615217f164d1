"""What a control plane refuses to start with: each one line that says what to do."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from troupe.chassis.errors import DataLoss, FailedPrecondition, InvalidArgument, TroupeError
from troupe.controlplane.process import running
from troupe.controlplane.settings import ControlPlaneSettings


async def refusal(data: Path, **settings: Any) -> TroupeError:
    with pytest.raises(TroupeError) as raised:
        async with running(ControlPlaneSettings(listen="127.0.0.1:0", data=data, **settings)):
            pass
    assert "\n" not in str(raised.value)
    return raised.value


async def started(data: Path, **settings: Any) -> None:
    async with running(ControlPlaneSettings(listen="127.0.0.1:0", data=data, **settings)) as serving:
        assert not serving.address.endswith(":0")


async def test_it_starts_again_and_again_on_the_same_directory(tmp_path: Path) -> None:
    for _ in range(2):
        await started(tmp_path / "new" / "directory")
    assert (tmp_path / "new" / "directory" / "controlplane.db").exists()


async def test_it_starts_without_a_directory_in_memory(tmp_path: Path) -> None:
    await started(tmp_path / "unused", store="memory://")
    assert not (tmp_path / "unused").exists()


async def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = await refusal(tmp_path / "file")
    assert isinstance(error, FailedPrecondition)
    assert "name another directory with --data" in str(error)


async def test_a_store_of_a_newer_troupe_and_a_broken_one(tmp_path: Path) -> None:
    await started(tmp_path / "newer")
    with sqlite3.connect(tmp_path / "newer" / "controlplane.db") as connection:
        connection.execute("PRAGMA user_version = 1000")
    connection.close()
    newer = await refusal(tmp_path / "newer")
    assert (type(newer), newer.reason) == (FailedPrecondition, "DATA_NEWER")
    (tmp_path / "controlplane.db").write_bytes(b"no database " * 1_000)
    assert isinstance(await refusal(tmp_path), DataLoss)


async def test_another_number_of_shards_than_the_fleet_was_created_with(tmp_path: Path) -> None:
    await started(tmp_path, shards=4)
    await started(tmp_path)
    assert "created with 4 shards, which cannot be changed to 8" in str(await refusal(tmp_path, shards=8))
    assert "too few for 5 workers" in str(await refusal(tmp_path, workers=5))


async def test_a_port_in_use(tmp_path: Path) -> None:
    async with running(ControlPlaneSettings(listen="127.0.0.1:0", data=tmp_path / "a")) as other:
        asked = ControlPlaneSettings(listen=other.address, data=tmp_path / "b")
        with pytest.raises(FailedPrecondition) as raised:
            async with running(asked):
                pass
    assert raised.value.reason == "PORT_IN_USE"


async def test_a_store_url_that_is_none(tmp_path: Path) -> None:
    assert isinstance(await refusal(tmp_path, store="postgres://host/db"), InvalidArgument)


@pytest.mark.parametrize(
    "wrong",
    [
        {"shards": 0},
        {"shards": 65_537},
        {"workers": 0},
        {"workers": 5, "shards": 4},
        {"workers": 5, "max_workers": 4},
        {"lease": 3.0, "renew_after": 3.0},
        {"watcher_patience": 0},
        {"leader_lease": 10.0},
        {"leader_retry": 10.0},
        {"advertise": "nowhere"},
        {"release_timeout": 0},
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        ControlPlaneSettings.load(wrong)
