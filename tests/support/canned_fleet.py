"""A control plane and a worker that say what a test tells them to, for the command line to talk to."""

import contextlib
import hashlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from troupe.chassis.errors import Aborted, NotFound, TroupeError
from troupe.chassis.rpc_errors import status
from troupe.cli.main import main
from troupe.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    control_plane_pb2,
    control_plane_pb2_grpc,
    dead_letter_pb2_grpc,
    promise_pb2_grpc,
    turn_pb2,
)
from troupe.v1.control_plane_pb2 import RevisionInfo
from troupe.v1.resource_pb2 import ConfigSpec, Resource

ENVIRONMENT = ("TROUPE_", "OPENAI_", "XDG_DATA_HOME", "NO_COLOR", "FORCE_COLOR")


class CannedControlPlane(control_plane_pb2_grpc.ControlPlaneServiceServicer):
    """Keeps revisions as a control plane does. `errors` are raised by the next Syncs, `status` is what a watch says
    of the revision, each entry one response."""

    def __init__(self) -> None:
        self.revisions: list[ConfigSpec] = []
        self.syncs: list[control_plane_pb2.SyncRequest] = []
        self.errors: list[TroupeError] = []
        self.tokens: list[str | None] = []
        """The authorization header of each GetRevision."""
        self.before_sync: Callable[[], None] = lambda: None
        self.status: Callable[[RevisionInfo], Iterable[control_plane_pb2.WatchStatusResponse]] = lambda _: ()

    def commit(self, *resources: Resource, revision_id: str = "") -> None:
        """A revision from somewhere else."""
        generation = len(self.revisions) + 1
        self.revisions.append(
            ConfigSpec(
                revision_id=revision_id or f"revision-{generation}", generation=generation, term=1, resources=resources
            )
        )

    def Sync(self, request: control_plane_pb2.SyncRequest, context: Any) -> control_plane_pb2.SyncResponse:  # noqa: N802
        self.syncs.append(request)
        self.before_sync()
        if self.errors:
            _fail(context, self.errors.pop(0))
        if request.parent_revision_id != (self.revisions[-1].revision_id if self.revisions else ""):
            _fail(context, Aborted("STALE_PARENT", "another revision is current"))
        if not request.validate_only:
            self.commit(*request.resources, revision_id=request.revision_id)
        return control_plane_pb2.SyncResponse(revision=self._info(len(self.revisions)))

    def GetRevision(self, request: Any, context: Any) -> control_plane_pb2.GetRevisionResponse:  # noqa: N802
        self.tokens.append(dict(context.invocation_metadata()).get("authorization"))
        if not self.revisions:
            _fail(context, NotFound("NO_REVISION", "there is no revision yet"))
        return control_plane_pb2.GetRevisionResponse(
            revision=self._info(len(self.revisions)), config=self.revisions[-1]
        )

    def ListRevisions(self, request: Any, context: Any) -> control_plane_pb2.ListRevisionsResponse:  # noqa: N802
        """Two to a page, so that paging is tried."""
        newest = int(request.page_token or len(self.revisions))
        shown = range(newest, max(newest - 2, 0), -1)
        rest = newest - len(shown)
        return control_plane_pb2.ListRevisionsResponse(
            revisions=[self._info(generation) for generation in shown], next_page_token=str(rest) if rest else ""
        )

    def WatchStatus(self, request: Any, context: Any) -> Iterator[control_plane_pb2.WatchStatusResponse]:  # noqa: N802
        yield from self.status(self._info(len(self.revisions)) if self.revisions else RevisionInfo())

    def Register(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "canned")

    def Rollback(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "canned")

    def Drain(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "canned")

    def _info(self, generation: int) -> RevisionInfo:
        config = self.revisions[generation - 1]
        names = "".join(resource.metadata.name for resource in config.resources)
        return RevisionInfo(
            revision_id=config.revision_id,
            generation=generation,
            term=1,
            content_hash=hashlib.sha256(names.encode()).hexdigest(),
            resource_count=len(config.resources),
            current=generation == len(self.revisions),
        )


class Canned:
    """Answers every call with what stands in the field of its name, an error raised; keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.answers: dict[str, Any] = {}

    def _answer(self, call: str, request: Any, context: Any) -> Any:
        self.requests.append(request)
        answer = self.answers[call]
        answer = answer(request) if callable(answer) else answer
        if isinstance(answer, TroupeError):
            _fail(context, answer)
        return answer


class CannedWorker(Canned, agent_pb2_grpc.AgentServiceServicer):
    """A worker's calls for clients. `converse` are the events of one conversation after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.converse: list[Callable[[agent_pb2.ConverseRequest], Iterable[turn_pb2.Event | TroupeError]]] = []

    def Converse(self, request: agent_pb2.ConverseRequest, context: Any) -> Iterator[Any]:  # noqa: N802
        self.requests.append(request)
        for event in self.converse.pop(0)(request):
            if isinstance(event, TroupeError):
                _fail(context, event)
            else:
                yield agent_pb2.ConverseResponse(event=event)

    def ControlTurns(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        yield from self._answer("ControlTurns", request, context)

    def Subscribe(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        yield from self._answer("Subscribe", request, context)

    def Send(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("Send", request, context)

    def GetMessage(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("GetMessage", request, context)

    def GetSession(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("GetSession", request, context)

    def ListSessions(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("ListSessions", request, context)

    def DeleteSession(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("DeleteSession", request, context)


class CannedPromises(Canned, promise_pb2_grpc.PromiseServiceServicer):
    """A worker's calls for promises."""

    def Resolve(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("Resolve", request, context)

    def Reject(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("Reject", request, context)

    def GetPromise(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("GetPromise", request, context)

    def ListPromises(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("ListPromises", request, context)


class CannedLetters(dead_letter_pb2_grpc.DeadLetterServiceServicer):
    """Answers every call with what stands in the field of its name, in a stream with each; an error is raised; keeps
    the requests."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.answers: dict[str, Any] = {}

    def ListDeadLetters(self, request: Any, context: Any) -> Any:  # noqa: N802
        return next(self._answers("ListDeadLetters", request, context))

    def GetDeadLetter(self, request: Any, context: Any) -> Any:  # noqa: N802
        return next(self._answers("GetDeadLetter", request, context))

    def Redrive(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        yield from self._answers("Redrive", request, context)

    def Purge(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        yield from self._answers("Purge", request, context)

    def _answers(self, call: str, request: Any, context: Any) -> Iterator[Any]:
        self.requests.append(request)
        answer = self.answers[call]
        answer = answer(request) if callable(answer) else answer
        for one in answer if isinstance(answer, list) else [answer]:
            if isinstance(one, TroupeError):
                _fail(context, one)
            yield one


@dataclass(frozen=True, slots=True)
class Run:
    """What one command came to."""

    code: int
    out: str
    err: str


@dataclass(slots=True)
class CannedFleet:
    """The servers, and the command line pointed at them."""

    control_plane: CannedControlPlane
    worker: CannedWorker
    letters: CannedLetters
    promises: CannedPromises
    server: str
    gateway: str
    _capture: pytest.CaptureFixture[str]
    _patch: pytest.MonkeyPatch
    directory: Path = field(default_factory=Path)

    def troupe(self, *arguments: str, stdin: str = "", terminal: bool = False) -> Run:
        """Run one command in this process; with `terminal`, a person types its stdin."""
        self._capture.readouterr()
        typed = io.TextIOWrapper(io.BytesIO(stdin.encode()))
        self._patch.setattr(typed, "isatty", lambda: terminal)
        self._patch.setattr(sys, "stdin", typed)
        code = main(arguments)
        captured = self._capture.readouterr()
        return Run(code, captured.out, captured.err)

    def write(self, name: str, text: str) -> str:
        """A file in the test's directory; its path."""
        path = self.directory / name
        path.write_text(text)
        return str(path)


@contextlib.contextmanager
def canned_fleet(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    directory: Path,
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[CannedFleet]:
    """Serve them on a free port, in threads, while the body runs; the environment names it. With `credentials`,
    under TLS."""
    clean_environment(monkeypatch, directory)
    control_plane, worker, letters = CannedControlPlane(), CannedWorker(), CannedLetters()
    promises = CannedPromises()
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    control_plane_pb2_grpc.add_ControlPlaneServiceServicer_to_server(control_plane, server)
    agent_pb2_grpc.add_AgentServiceServicer_to_server(worker, server)
    dead_letter_pb2_grpc.add_DeadLetterServiceServicer_to_server(letters, server)
    promise_pb2_grpc.add_PromiseServiceServicer_to_server(promises, server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    address = f"127.0.0.1:{port}"
    server.start()
    monkeypatch.setenv("TROUPE_SERVER", address)
    monkeypatch.setenv("TROUPE_GATEWAY", address)
    try:
        yield CannedFleet(control_plane, worker, letters, promises, address, address, capsys, monkeypatch, directory)
    finally:
        server.stop(None).wait()


def clean_environment(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Nothing of this shell's settings; data in `directory`."""
    for name in [name for name in os.environ if name.startswith(ENVIRONMENT)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TROUPE_DATA", str(directory / "data"))


def _fail(context: Any, error: TroupeError) -> None:
    context.abort_with_status(rpc_status.to_status(status(error)))
