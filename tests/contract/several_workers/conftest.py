"""Any worker may be called for any session: two of them, and the test in the part of their control plane."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support import scripted_actor
from support.serving_worker import COUNTER
from support.worker_fleet import Member, WorkerFleet, worker_fleet


@pytest.fixture
async def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WorkerFleet]:
    """`owner` has every shard, `other` none."""
    monkeypatch.setattr(scripted_actor, "OPEN", asyncio.Event())
    async with worker_fleet(tmp_path, "owner", "other", resources=[COUNTER]) as opened:
        yield opened


@pytest.fixture
def owner(fleet: WorkerFleet) -> Member:
    return fleet.members["owner"]


@pytest.fixture
def other(fleet: WorkerFleet) -> Member:
    return fleet.members["other"]
