"""The users of the simulation: they sync, roll back and drain, and ask again where they heard nothing."""

import asyncio
import itertools
import random
from typing import Any

from fault.simulation_control.checks import Checks
from fault.simulation_control.planes import Planes
from fault.simulation_control.store import WatchedStore
from support.fleets import model

from troupe.chassis.errors import TroupeError
from troupe.chassis.servers import Servers, is_elsewhere
from troupe.v1.control_plane_pb2 import DrainRequest, GetRevisionRequest, RollbackRequest, SyncRequest
from troupe.v1.resource_pb2 import ModelSpec
from troupe.v1.rollout_pb2 import FailurePolicy, RolloutPolicy, WorkerShare


class Users:
    """What they do, each in a task beside. What is confirmed to them is told to `checks`."""

    def __init__(
        self, dice: random.Random, planes: Planes, store: WatchedStore, checks: Checks, tasks: asyncio.TaskGroup
    ) -> None:
        self._dice, self._planes, self._store, self._checks, self._tasks = dice, planes, store, checks, tasks
        self._ids, self._content = itertools.count(1), 0

    def syncs(self) -> None:
        self._tasks.create_task(self._syncs())

    async def _syncs(self) -> None:
        if self._dice.random() < 0.8:
            self._content += 1
        number = self._content
        resources = [model(f"m{each}", ModelSpec(model=f"model {number}")) for each in range(3)]
        request = SyncRequest(revision_id=self._id(), resources=resources, rollout=self._policy())
        newest = await self._asks("GetRevision", GetRevisionRequest())
        request.parent_revision_id = newest.revision.revision_id if newest is not None else ""
        # Users see what they started from a moment ago.
        await asyncio.sleep(self._dice.choice((0.0, 0.0, 0.5)))
        await self._writes("Sync", request)

    def rolls_back(self) -> None:
        self._tasks.create_task(self._rolls_back())

    async def _rolls_back(self) -> None:
        newest = await self._asks("GetRevision", GetRevisionRequest())
        if newest is not None:
            left = newest.revision.revision_id
            request = RollbackRequest(revision_id=self._id(), from_revision_id=left, rollout=self._policy())
            await self._writes("Rollback", request)

    def drains(self, worker_id: str) -> None:
        self._tasks.create_task(self._asks("Drain", DrainRequest(worker_id=worker_id)))

    async def _writes(self, method: str, request: Any) -> None:
        answer = await self._asks(method, request)
        if answer is None and self._dice.random() < 0.5:
            answer = await self._asks(method, request)
        if answer is None:
            return
        about = answer.revision
        stored = await self._store.revision(about.revision_id)
        if stored is not None:
            self._checks.asked[about.revision_id] = about.content_hash
        elif not self._checks.counts["restored"]:
            self._checks.broken(f"{method} was confirmed and is not stored")

    async def _asks(self, method: str, request: Any) -> Any:
        """What some control plane answers, the leader it names tried after it; None where that is an error."""
        while not self._planes.up:
            await asyncio.sleep(0.5)
        servers = Servers(self._planes.addresses)
        for _ in range(4):
            try:
                return await self._planes.ask(servers.address, "user", method, request, 8.0)
            except TroupeError as error:
                if not (is_elsewhere(error) and servers.failed(error)):
                    await asyncio.sleep(0.5)
                if not is_elsewhere(error):
                    self._checks.counts[error.reason] += 1
                    return None
        return None

    def _policy(self) -> RolloutPolicy:
        policy = RolloutPolicy()
        if self._dice.random() < 0.3:
            policy.on_failure = self._dice.choice(FailurePolicy.values())
        if self._dice.random() < 0.6:
            policy.canary.CopyFrom(WorkerShare(workers=self._dice.randint(0, 2)))
        if self._dice.random() < 0.6:
            policy.max_unavailable.CopyFrom(WorkerShare(percent=self._dice.choice((25, 50, 100))))
        if self._dice.random() < 0.6:
            policy.max_failures = self._dice.randint(0, 2)
        return policy

    def _id(self) -> str:
        revision_id = f"01900000-0000-7000-8000-{next(self._ids):012}"
        self._checks.by_users.add(revision_id)
        return revision_id
