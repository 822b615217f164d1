"""What other workers of a fleet need, and how each is started."""

import shlex
from pathlib import Path

import pytest

from troupe.chassis.errors import InvalidArgument
from troupe.cli.endpoints import Endpoints
from troupe.cli.fleet import Fleet
from troupe.cli.joining import check_shared, command, hides, present
from troupe.cli.model_endpoint import ModelEndpoint
from troupe.dataplane.settings import DataPlaneSettings
from troupe.v1 import status_pb2
from troupe.v1.control_plane_pb2 import WorkerStatus
from troupe.v1.status_pb2 import Health, StatusReport

AMQP, REDIS = "amqp://me:secret@broker:5672/fleet", "redis://:secret@state:6379/1?prefix=a"


@pytest.mark.parametrize(
    ("workers", "broker", "state", "missing"),
    [
        (1, "", "", ""),
        (1, AMQP, "", ""),
        (2, AMQP, REDIS, ""),
        (2, "amqps://broker", "rediss://state", ""),
        (2, "", "", "--broker and --state"),
        (2, AMQP, "", "--state"),
        (2, "sqlite:///b.db", REDIS, "--broker"),
        (3, "memory://", REDIS, "--broker"),
    ],
)
def test_several_workers_need_what_all_of_them_reach(workers: int, broker: str, state: str, missing: str) -> None:
    if not missing:
        check_shared(workers, broker, state)
        return
    with pytest.raises(InvalidArgument) as refused:
        check_shared(workers, broker, state)
    assert f"({missing} is of this process alone)" in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_command_names_all_that_is_needed_and_no_password(tmp_path: Path) -> None:
    model = ModelEndpoint("http://127.0.0.1:7072/v1", "sim", "")
    fleet = Fleet(Endpoints("127.0.0.1:7071", "127.0.0.1:7070"), model, "the simulator", "", tmp_path)
    worker = DataPlaneSettings(
        broker=AMQP, state=REDIS, worker_id="worker-0", python_path=[Path("my tools"), Path()], data=tmp_path
    )
    words = shlex.split(command(fleet, worker, 2))
    assert words[:2] == ["troupe", "dataplane"]
    assert dict(zip(words[2::2], words[3::2], strict=True)) == {
        "--worker-id": "worker-2",
        "--server": "127.0.0.1:7071",
        "--broker": "amqp://me:**********@broker:5672/fleet",
        "--state": "redis://:**********@state:6379/1?prefix=a",
        "--llm": "http://127.0.0.1:7072/v1",
        "--model": "sim",
        "--data": str(tmp_path),
        "--python-path": "my tools",
    }
    assert hides(worker)
    assert not hides(DataPlaneSettings(broker="amqp://broker", state="redis://state"))


def test_a_worker_whose_lease_is_over_is_not_there() -> None:
    lost = StatusReport(health=Health(state=status_pb2.HEALTH_STATE_LOST))
    assert present([WorkerStatus(worker_id="a"), WorkerStatus(worker_id="b", report=lost)]) == ["a"]
