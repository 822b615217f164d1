"""How carefully a revision goes out: a RolloutPolicy checked, its absent fields filled in, its shares counted."""

import math
from collections.abc import Iterator
from typing import Final

from troupe.chassis.errors import Violation
from troupe.v1.rollout_pb2 import FailurePolicy, RolloutPolicy, WorkerShare

MAX_WORKERS: Final = 65_536
"""No field of a policy counts more."""

DEFAULT_CANARY: Final = WorkerShare(workers=1)
NO_CANARY: Final = WorkerShare(workers=0)
DEFAULT_MAX_UNAVAILABLE: Final = WorkerShare(percent=25)
DEFAULT_MAX_FAILURES: Final = 1


def wrong(policy: RolloutPolicy) -> Iterator[Violation]:
    """What is wrong with a policy that a user sent, at most one violation for each field; the fields are called
    `rollout.canary` and the like."""
    if policy.HasField("canary") and (problem := _wrong_share(policy.canary, 0)):
        yield Violation("rollout.canary", problem)
    if policy.HasField("max_unavailable") and (problem := _wrong_share(policy.max_unavailable, 1)):
        yield Violation("rollout.max_unavailable", problem)
    if policy.max_failures > MAX_WORKERS:
        yield Violation("rollout.max_failures", f"must be 0 to {MAX_WORKERS:,} workers, not {policy.max_failures:,}")
    if policy.on_failure not in FailurePolicy.values():
        yield Violation("rollout.on_failure", f"{policy.on_failure} is no value of it that this version knows")


def resolved(policy: RolloutPolicy, canary: WorkerShare = DEFAULT_CANARY) -> RolloutPolicy:
    """The policy with every field set; an absent canary is `canary`."""
    return RolloutPolicy(
        canary=policy.canary if policy.HasField("canary") else canary,
        max_unavailable=policy.max_unavailable if policy.HasField("max_unavailable") else DEFAULT_MAX_UNAVAILABLE,
        max_failures=policy.max_failures if policy.HasField("max_failures") else DEFAULT_MAX_FAILURES,
        on_failure=policy.on_failure or FailurePolicy.FAILURE_POLICY_ROLL_BACK,
    )


def count(share: WorkerShare, alive: int) -> int:
    """How many workers that is of `alive` ones; percents are rounded up."""
    if share.WhichOneof("kind") == "percent":
        return math.ceil(alive * share.percent / 100)
    return share.workers


def _wrong_share(share: WorkerShare, least: int) -> str:
    match share.WhichOneof("kind"):
        case "workers":
            if not least <= share.workers <= MAX_WORKERS:
                return f"must be {least} to {MAX_WORKERS:,} workers, not {share.workers:,}"
        case "percent":
            # Not `<`: what is no number is outside of every range.
            if not (0 <= share.percent <= 100 and (share.percent > 0 or not least)):
                return f"must be {'more than ' if least else ''}0 to 100 percent, not {share.percent:g}"
        case _:
            return "needs workers or percent"
    return ""
