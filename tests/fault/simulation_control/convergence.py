"""Where everything must come to once nothing new happens."""

from collections.abc import Mapping

from fault.simulation_control.checks import Checks
from fault.simulation_control.planes import Planes
from fault.simulation_control.store import WatchedStore
from fault.simulation_control.worker import ACTIVE, Fence, Host, Process

from troupe.controlplane.placement import Candidate, Member, following
from troupe.controlplane.stages import COMPLETE, ROLLING_BACK, UNFINISHED, name
from troupe.controlplane.weights import weight_of


class Convergence:
    """Of one world: `wrong` says what is still in its way."""

    def __init__(
        self, planes: Planes, hosts: Mapping[str, Host], store: WatchedStore, fence: Fence, checks: Checks
    ) -> None:
        self._planes, self._hosts, self._store, self._fence, self._checks = planes, hosts, store, fence, checks

    async def wrong(self) -> list[str]:
        wrong = []
        leads = [plane.name for plane in self._planes.up if plane.leads]
        if len(leads) != 1:
            wrong.append(f"{leads} lead")
        wrong += await self._wrong_revisions()
        wrong += await self._wrong_shards()
        return wrong

    async def _wrong_revisions(self) -> list[str]:
        wrong, line = [], await self._store.revisions(1000)
        self._checks.ended.update(name(about.rollout.stage) for about in line)
        for revision_id, content in self._checks.asked.items():
            if (revision_id, content) not in [(about.revision_id, about.content_hash) for about in line]:
                wrong.append(f"committed revision {revision_id[-3:]} is lost")
        for about in line:
            if any(row.error.reason == "PREPARE_FAILED" for row in about.rollout.workers):
                wrong.append("a worker of the simulation is defective")
            if about.rollout.stage in UNFINISHED or about.rollout.stage == ROLLING_BACK:
                wrong.append(f"{about.revision_id[-3:]} is {name(about.rollout.stage)}")
        if not line or line[0].rollout.stage != COMPLETE:
            return wrong
        rows = {row.worker_id: row for row in line[0].rollout.workers}
        for process in self._there():
            running = process.applier.running
            tried = process.applier.last_attempt
            row = rows.get(process.host.worker_id)
            has = running is not None and running.config.revision_id == line[0].revision_id
            failed = tried is not None and tried.revision_id == line[0].revision_id and tried.HasField("error")
            if not (has or failed or (row is not None and row.failed)):
                wrong.append(f"{process.instance_id} does not run what is COMPLETE")
        return wrong

    async def _wrong_shards(self) -> list[str]:
        there, placement = self._there(), await self._store.placement()
        if not there:
            return []
        wrong = []
        newest = {process.host.worker_id: process for process in there}
        candidates = [
            Candidate(Member(name, process.instance_id, process.address), weight_of(process.host.capacity))
            for name, process in newest.items()
        ]
        alive = {process.instance_id for process in there}
        if len(newest) == len(there) and following(placement, candidates, alive, frozenset()) is not placement:
            wrong.append("the placement is not what is wanted")
        for number, shard in enumerate(placement.shards):
            owner = self._checks.process(shard.owner.instance_id) if shard is not None else None
            if shard is None or owner is None or shard.revoked:
                wrong.append(f"shard {number} has no owner, or one that is to hand it over")
                continue
            held = owner.held.get(number)
            if not owner.alive or held is None or (held.epoch, held.state) != (shard.epoch, ACTIVE):
                wrong.append(f"shard {number} is not held by {owner.instance_id} under {shard.epoch}: {held}")
            elif not self._fence.takes(number, shard.epoch, owner.instance_id):
                wrong.append(f"the fence knows another owner of shard {number}")
        for process in there:
            for number in process.held:
                shard = placement.shards[number]
                if shard is None or shard.owner.instance_id != process.instance_id:
                    wrong.append(f"{process.instance_id} holds shard {number}, which is another's")
        return wrong

    def _there(self) -> list[Process]:
        return [process for host in self._hosts.values() for process in host.up if not process.draining]
