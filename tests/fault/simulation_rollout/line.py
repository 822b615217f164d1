"""The store of the simulation: the line of revisions with their rollouts, kept as bytes, swapped by term."""

from collections.abc import Sequence
from dataclasses import replace

from fault.simulation_rollout.checks import Checks

from troupe.chassis.errors import Aborted
from troupe.controlplane.revisions import Accept, Head, Summary, summary
from troupe.controlplane.stages import COMPLETE
from troupe.v1.resource_pb2 import ConfigSpec
from troupe.v1.rollout_pb2 import Rollout


class Line:
    """One fleet's store. What is written is checked as it is written."""

    def __init__(self, checks: Checks) -> None:
        self.term = 0
        self._checks = checks
        self._configs: list[ConfigSpec] = []
        self._rollouts: dict[str, bytes] = {}

    def lead(self) -> int:
        self.term += 1
        return self.term

    def head(self) -> Head:
        if not self._configs:
            return Head(0, self.term)
        return Head(self._configs[-1].generation, self.term, self._configs[-1].revision_id)

    def revisions(self) -> list[Summary]:
        return [summary(config, 0.0, self.rollout(config.revision_id)) for config in self._configs]

    def rollout(self, revision_id: str) -> Rollout:
        return Rollout.FromString(self._rollouts[revision_id])

    def revision(self, revision_id: str) -> tuple[ConfigSpec, Summary] | None:
        for config in self._configs:
            if config.revision_id == revision_id:
                return config, summary(config, 0.0, self.rollout(revision_id))
        return None

    def last_complete(self, before: int) -> tuple[ConfigSpec, Summary] | None:
        for config in reversed(self._configs):
            if config.generation < before and self.rollout(config.revision_id).stage == COMPLETE:
                return self.revision(config.revision_id)
        return None

    def commit(self, accepted: Accept, after: Head) -> None:
        if self.head() != after:
            raise Aborted("REVISION_CONFLICT", "another came first")
        own, *before = accepted.rollouts
        self._checks.commits(accepted, self.revisions())
        if before:
            self._put(after.revision_id, before[0])
        self._configs.append(accepted.config)
        self._rollouts[accepted.config.revision_id] = own.SerializeToString()

    def save(self, rollouts: Sequence[tuple[str, Rollout]], term: int, alive: int = 0) -> None:
        if term != self.term:
            raise Aborted("NOT_LEADER", "another leads")
        for revision_id, rollout in rollouts:
            self._put(revision_id, rollout, alive)

    def _put(self, revision_id: str, rollout: Rollout, alive: int = 0) -> None:
        self._checks.changes(revision_id, self.rollout(revision_id), rollout, alive)
        self._rollouts[revision_id] = rollout.SerializeToString()


def stands(about: Summary, rollout: Rollout) -> Summary:
    """The revision with another rollout."""
    return replace(about, rollout=rollout)
