"""The workers that join a fleet from other terminals: what they need, how each is started, and when all are there."""

import shlex
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from troupe.chassis.errors import InvalidArgument
from troupe.cli import endpoints
from troupe.cli.clients import ControlPlane
from troupe.cli.fleet_status import watch
from troupe.v1 import status_pb2
from troupe.v1.control_plane_pb2 import WorkerStatus

if TYPE_CHECKING:
    from troupe.cli.fleet import Fleet
    from troupe.dataplane.settings import DataPlaneSettings

_SHARED: Final = {"--broker": ("amqp", "amqps"), "--state": ("redis", "rediss")}


def check_shared(workers: int, broker: str, state: str) -> None:
    """Raise InvalidArgument where several workers would not see the same mailboxes and state."""
    if workers == 1:
        return
    given = {"--broker": broker, "--state": state}
    missing = [option for option, schemes in _SHARED.items() if given[option].partition(":")[0] not in schemes]
    if missing:
        raise InvalidArgument(
            "STORES_NOT_SHARED",
            f"{workers} workers need mailboxes and state that all of them reach: name --broker amqp://… and "
            f"--state redis://… ({' and '.join(missing)} is of this process alone)",
        )


def command(fleet: "Fleet", worker: "DataPlaneSettings", number: int) -> str:
    """What starts one more worker on this machine. Passwords are hidden."""
    shown = worker.shown()
    name, _, last = worker.worker_id.rpartition("-")
    stem, first = (name, int(last)) if name and last.isdecimal() else (worker.worker_id, 0)
    options = {
        "--worker-id": f"{stem}-{first + number}",
        "--server": fleet.endpoints.server,
        "--broker": shown["broker"],
        "--state": shown["state"],
        "--llm": fleet.llm.url,
        "--model": fleet.llm.model,
    }
    if fleet.data != endpoints.data_directory():
        options["--data"] = str(fleet.data.absolute())
    given = [part for option, value in options.items() if value for part in (option, value)]
    for path in worker.python_path:
        if str(path) != ".":
            given += ["--python-path", str(path)]
    return shlex.join(["troupe", "dataplane", *given])


def hides(worker: "DataPlaneSettings") -> bool:
    """Whether `command` leaves something out that is needed."""
    shown = worker.shown()
    return (shown["broker"], shown["state"]) != (worker.broker, worker.state)


async def arrived(control_plane: ControlPlane, wanted: int, heard: Callable[[list[str]], None]) -> None:
    """Wait until as many workers as are wanted hold shards; `heard` gets the names of those that are there whenever
    they change."""
    before: list[str] = []
    async for status in watch(control_plane):
        here = present(status.workers)
        if here != before:
            heard(here)
            before = here
        if sum(bool(worker.report.shards) for worker in status.workers if worker.worker_id in here) >= wanted:
            return


def present(workers: Iterable[WorkerStatus]) -> list[str]:
    """The names of those whose leases have not ended."""
    return [one.worker_id for one in workers if one.report.health.state != status_pb2.HEALTH_STATE_LOST]
