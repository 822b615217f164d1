"""The options of commands that make a revision: how carefully it goes out, and whether that is waited for."""

from enum import StrEnum
from typing import Annotated

import typer

from troupe.cli import amounts, durations
from troupe.v1.rollout_pb2 import FailurePolicy, RolloutPolicy, WorkerShare


class OnFailure(StrEnum):
    """What follows when too many workers fail."""

    ROLL_BACK = "roll-back"
    HALT = "halt"


CanaryOption = Annotated[
    WorkerShare | None,
    typer.Option(
        "--canary",
        parser=amounts.parse,
        metavar="N|P%",
        help="Workers that take it first, while the others wait; if one of them fails, it stops.",
        show_default=False,
    ),
]
MaxUnavailableOption = Annotated[
    WorkerShare | None,
    typer.Option(
        "--max-unavailable",
        parser=amounts.parse_some,
        metavar="N|P%",
        help="Workers that may be in the middle of taking it at once; 25% by default.",
        show_default=False,
    ),
]
MaxFailuresOption = Annotated[
    int | None,
    typer.Option(
        "--max-failures",
        metavar="N",
        min=0,
        max=amounts.MOST,
        help="Workers that may fail with it, beside canaries; 1 by default.",
        show_default=False,
    ),
]
OnFailureOption = Annotated[
    OnFailure | None,
    typer.Option("--on-failure", help="What follows when more fail; roll-back by default.", show_default=False),
]
WaitOption = Annotated[bool, typer.Option("--wait", help="Show the rollout to its end; fails unless it is COMPLETE.")]
TimeoutOption = Annotated[
    float,
    typer.Option("--timeout", parser=durations.parse, metavar="DURATION", help="How long --wait waits."),
]
TIMEOUT = "10m"
"""By then a worker that makes no progress counts as failed, so that most rollouts have an end."""


def policy(
    canary: WorkerShare | None,
    max_unavailable: WorkerShare | None,
    max_failures: int | None,
    on_failure: OnFailure | None,
) -> RolloutPolicy:
    """What was asked for; what was not is left to the control plane."""
    wanted = {
        None: FailurePolicy.FAILURE_POLICY_UNSPECIFIED,
        OnFailure.ROLL_BACK: FailurePolicy.FAILURE_POLICY_ROLL_BACK,
        OnFailure.HALT: FailurePolicy.FAILURE_POLICY_HALT,
    }
    return RolloutPolicy(
        canary=canary, max_unavailable=max_unavailable, max_failures=max_failures, on_failure=wanted[on_failure]
    )
