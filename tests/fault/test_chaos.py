"""Kill anything, lose nothing, repeat nothing: two short storms. See `fault.chaos`; `make chaos` runs longer ones."""

from pathlib import Path

import pytest
from fault.chaos.storm import Plan, Storm, storm


@pytest.mark.timeout(700)
async def test_a_storm_over_rabbitmq_and_redis_loses_and_repeats_nothing(tmp_path: Path) -> None:
    plan = Plan(seed=29, seconds=55, pace=2, kills={"RabbitMQ": 3, "Redis": 5}, all_kills=40, settled=2_000)

    it = await _raged(plan, tmp_path)

    assert len(it.between) >= 8
    assert min(it.between) >= 1, "each session went on between any two kills of a server"
    assert len(it.killer.points()) >= 5


@pytest.mark.timeout(600)
async def test_a_storm_over_one_process_on_sqlite_loses_and_repeats_nothing(tmp_path: Path) -> None:
    await _raged(Plan(seed=1, seconds=20, fleet="embedded", pace=2, all_kills=6, settled=500), tmp_path)


async def _raged(plan: Plan, directory: Path) -> Storm:
    lines: list[str] = []
    it = await storm(
        plan, directory, lambda done: lines.append(f"{done.at:.1f} s {done.victim} {done.what}"), lambda _: None
    )
    assert it.verdict is not None
    broken = "\n".join([f"seed {plan.seed}, history in {directory}", *lines, *it.verdict.broken])
    assert it.verdict.holds, broken
    return it
