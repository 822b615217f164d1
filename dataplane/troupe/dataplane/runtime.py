"""Troupe inside a Python program of yours: the data plane of a worker, with its own placement and no control plane.

    async with Runtime() as runtime:
        await runtime.apply("fleet.yaml")
        status = await runtime.send("counter", "one", "hello", wait=5)

By default everything is in memory and goes with the process. With `data`, mailboxes and state are files there: the next
runtime on them takes up what this one left. A file serves one process at a time.

Lines of the log go to the logger `troupe` of `logging`, unless the program has configured structlog.
"""

import tempfile
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import structlog
from google.rpc import code_pb2

from troupe.chassis import logs, rpc
from troupe.chassis.access.guard import guarding
from troupe.chassis.clock import Clock, SystemClock
from troupe.chassis.errors import InvalidArgument, TroupeError, Unavailable
from troupe.chassis.ids import uuid7
from troupe.chassis.settings import SecretStr
from troupe.dataplane.access import METHODS
from troupe.dataplane.local_client import LocalClient
from troupe.dataplane.plane import Plane, assembled
from troupe.dataplane.settings import DataPlaneSettings
from troupe.dataplane.tools import registry
from troupe.dataplane.tools.tool import Tool
from troupe.resources import manifest_files
from troupe.resources.content import content_hash, key, merge
from troupe.resources.manifest import parse_all
from troupe.resources.validation import validate
from troupe.v1 import status_pb2
from troupe.v1.data_plane_pb2 import PlaceRequest, ShardAssignment
from troupe.v1.resource_pb2 import ConfigSpec, Metadata, PythonTool, Resource, ToolSpec
from troupe.v1.status_pb2 import RevisionAttempt

MEMORY: Final = "memory://"
SHARDS: Final = 128
"""As many as a fleet has by default, so that its files can be taken over by one."""
NAME: Final = "runtime"
DRAIN_TIMEOUT: Final = 1.0
"""Seconds that running turns go on when the runtime is left, unless the setting is given."""
PATIENCE: Final = 10.0
"""Seconds that taking the shards may need."""
AGAIN: Final = 0.02
"""Seconds between two tries."""


class Runtime(LocalClient):
    """An async context manager: see the module's text. It is entered once; its methods are called meanwhile, on the
    event loop that it was entered on."""

    def __init__(
        self,
        *,
        llm: str | None = None,
        model: str | None = None,
        llm_key: str | None = None,
        tools: Iterable[Tool] = (),
        broker: str | None = None,
        state: str | None = None,
        data: Path | str | None = None,
        listen: str | None = None,
        shards: int = SHARDS,
        clock: Clock | None = None,
        **settings: Any,
    ) -> None:
        """`llm` is the base URL, with /v1, of the endpoint for Models that name none, `model` and `llm_key` are its
        model and key; without them, those of the environment that `troupe dataplane` takes. `tools` are functions at
        the top of importable modules; each is declared under its name, with - for _. `broker` and `state` are URLs;
        without them there are files in `data`, or, without that too, memory. `listen` is a host:port to serve to others
        as well; by default nothing is served. `settings` are those of a worker (docs/reference/settings.md)."""
        self._given = {"llm": llm, "model": model, "llm_key": llm_key and SecretStr(llm_key), **settings}
        self._tools, self._broker, self._state, self._data = tuple(tools), broker, state, data
        self._listen, self._shards, self._clock = listen, shards, clock or SystemClock()
        self._open = AsyncExitStack()
        self._plane: Plane
        self._worker_id, self._instance = "", uuid7()
        self._placed, self._held = 0, False

    async def __aenter__(self) -> Self:
        """Takes up what lies in `data`, the last revision included. Raises FailedPrecondition where another process
        uses its files, InvalidArgument for settings and URLs, and what the back ends raise."""
        try:
            await self._enter(self._open)
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets running turns end within `drain_timeout`; what did not end is taken up by the next runtime on the same
        back ends. What the block raised leaves as it is; a failure in the background, which cancels the block, takes
        its place."""
        await self._leave()

    async def apply(self, *declared: str | Path | Resource) -> str:
        """Run these resources, beside those that run, in place of those of the same names: from manifests, named by
        file or directory, or given. The revision's id. Raises InvalidManifest and InvalidArgument with all that is
        wrong, and the error with which a revision was refused; what ran before goes on then."""
        resources: list[Resource] = []
        for one in declared:
            if isinstance(one, Resource):
                resources.append(one)
            else:
                resources += [each.resource for each in parse_all(manifest_files.read([str(one)]))]
        return await self._run(merge(self._running(), resources))

    async def remove(self, kind: str, name: str, namespace: str = "default") -> str:
        """Run what runs without this resource; the revision's id."""
        return await self._run([one for one in self._running() if key(one) != key(_named(kind, name, namespace))])

    async def _enter(self, opening: AsyncExitStack) -> None:
        if not structlog.is_configured():
            logs.configure_library()
        volatile = self._data is None
        data = opening.enter_context(tempfile.TemporaryDirectory(prefix="troupe-")) if volatile else self._data
        given = {
            "python_path": [],
            "worker_id": NAME,  # what a worker of a fleet keeps in the same directory is not this one's
            "drain_timeout": DRAIN_TIMEOUT,
            "health_checks": 1,
            "health_window": 0.0,
            **self._given,
            "data": Path(str(data)),
            "broker": self._broker or (MEMORY if volatile else ""),
            "state": self._state or (MEMORY if volatile else ""),
        }
        if self._listen is not None:
            given["listen"] = self._listen
        settings = DataPlaneSettings.load(given)
        self._worker_id = settings.worker_id
        self._plane = await opening.enter_async_context(assembled(settings, self._clock, self._instance))
        opening.push_async_callback(self._close)
        super().__init__(self._plane.agents, self._plane.promises)
        await self._hold()
        if self._tools:
            await self._run(merge(self._running(), [_declared(tool) for tool in self._tools]))
        if self._listen is not None:
            guard = guarding(settings, METHODS)
            await opening.enter_async_context(rpc.serving(settings, self._plane.register, guard))

    async def _close(self) -> None:
        self._plane.stopping = True
        await self._plane.applier.close(in_order=True)

    async def _leave(self) -> None:
        """Without the error, if any, for which this is left: task groups would wrap it."""
        try:
            await self._open.aclose()
        except BaseExceptionGroup as group:
            errors: BaseException = group
            while isinstance(errors, BaseExceptionGroup) and len(errors.exceptions) == 1:
                errors = errors.exceptions[0]
            raise errors from None

    async def _hold(self) -> None:
        """Hold all shards, once there is something to run for them. The epoch is the time in milliseconds: greater than
        those that the store has seen, unless the clock was put back. Raises Unavailable where that takes longer than
        PATIENCE."""
        epoch, until = int(self._clock.now() * 1000), self._clock.monotonic() + PATIENCE
        while self._clock.monotonic() < until:
            self._placed += 1
            placement = PlaceRequest(
                term=1, version=self._placed, shard_count=self._shards, live_instance_ids=[self._instance]
            )
            for shard in range(self._shards):
                placement.shards.append(
                    ShardAssignment(shard=shard, epoch=epoch, worker_id=self._worker_id, instance_id=self._instance)
                )
            statuses = await self._plane.place(placement)
            if not self._plane.applier.running:
                return
            refused = [one.store_epoch for one in statuses if one.state == status_pb2.SHARD_STATE_REFUSED]
            if not refused and sum(one.state == status_pb2.SHARD_STATE_ACTIVE for one in statuses) == self._shards:
                self._held = True
                return
            epoch = max([epoch, *(seen + 1 for seen in refused)])
            await self._clock.sleep(AGAIN)
        raise Unavailable("SHARDS_NOT_HELD", "the runtime cannot take its shards; are state store and broker there?")

    def _running(self) -> Sequence[Resource]:
        running = self._plane.applier.running
        return running.config.resources if running else ()

    async def _run(self, resources: Sequence[Resource]) -> str:
        if violations := validate(resources):
            first = violations[0]
            raise InvalidArgument("INVALID_REVISION", f"{first.field}: {first.description}", violations=violations)
        last = self._plane.applier.last_attempt
        config = ConfigSpec(
            revision_id=uuid7(),
            generation=last.generation + 1 if last else 1,
            term=last.term if last else 1,
            content_hash=content_hash(resources),
            resources=resources,
        )
        attempt = await self._plane.applier.apply(config)
        if attempt.phase not in (status_pb2.APPLY_PHASE_APPLIED, status_pb2.APPLY_PHASE_PENDING):
            raise _refused(attempt)
        if not self._held:
            await self._hold()
        return config.revision_id


class RevisionRefused(TroupeError):
    """A revision cannot run here; `reason` and text are those of what is wrong with it."""

    code = code_pb2.FAILED_PRECONDITION


def _refused(attempt: RevisionAttempt) -> TroupeError:
    return RevisionRefused(attempt.error.reason, attempt.error.message, resource=attempt.error.resource)


def _named(kind: str, name: str, namespace: str) -> Resource:
    return Resource(kind=kind, metadata=Metadata(name=name, namespace=namespace))


def _declared(tool: Tool) -> Resource:
    """The Tool that names this function. Raises InvalidArgument where no other process could find it."""
    entry_point = f"{tool.function.__module__}:{tool.function.__qualname__}"
    metadata = Metadata(name=tool.name.replace("_", "-").lower())
    spec = ToolSpec(python=PythonTool(entry_point=entry_point))
    resource = Resource(kind="Tool", metadata=metadata)
    resource.spec.Pack(spec, deterministic=True)
    if registry.resolve(metadata, spec).function is not tool.function:
        raise InvalidArgument("NOT_AT_THE_TOP", f"tool {tool.name} is not what {entry_point} names; name it as it is")
    return resource
