"""Ways to break the product on purpose, so that it can be seen whether a storm shows it: `python -m fault.chaos --break
NAME`. Each takes away one thing that the product does against loss or repetition.

All were found within 90 s, by `--sessions 40 --rate 40 --pace 2`, most by any seed in the first half minute. Those that
need a crash between two certain steps want a seed that has it early: 4482 (a worker kills itself at `outbox.after`)
for "strikes before it publishes", 142 (RabbitMQ is killed again and again) for "confirms before the broker has it" and
"keeps what a turn sends in memory".

Two more were tried, and are shown elsewhere, since what one layer lets through another one stops:

- No fence: versions, attempts and counted starts refuse a former owner nearly all that the fence does. Rule "fence" of
  the simulation, and `tests/contract/test_state_store_fence.py`.
- Publishing what a turn sends before its commit: the turn runs again and sends the same under the same ids.
  `tests/contract/test_turns_outbox.py`.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[3] / "dataplane"


@dataclass(frozen=True, slots=True)
class Change:
    """In this file of the data plane, what stands there once, and what is to stand there."""

    file: str
    old: str
    new: str


BREAKS: Final[dict[str, tuple[Change, ...]]] = {
    "acks before the commit": (
        Change(
            "actors/actor.py",
            "                afterwards = await self._runner.run(each,",
            "                each.ack()\n                afterwards = await self._runner.run(each,",
        ),
    ),
    "no message ids": (
        Change("actors/runner.py", "        if not self._memory.may_have_record(turn.message_id):", "        if True:"),
        Change("state/redis/lua/commit.lua", "if done and is_final(found.fate) then", "if false then"),
    ),
    "no journal": (Change("actors/runner.py", "dict(found.journal)", "{}"),),
    "confirms before the broker has it": (
        Change(
            "sending.py",
            "            await self._confirmed(envelope, within)\n",
            "            asyncio.create_task(self._confirmed(envelope, within))\n",
        ),
    ),
    "strikes before it publishes": (
        Change(
            "actors/outbox.py",
            "        refusals = await _publish(world, sending)\n",
            "        struck = [message.number for message in sending]\n"
            '        await world.persist("outbox", lambda: world.store.strike(owner, key, struck))\n'
            "        refusals = await _publish(world, sending)\n",
        ),
    ),
    "keeps what a turn sends in memory": (
        Change("actors/settle.py", "            outbox=sent,\n", "            outbox=(),\n"),
    ),
    "no sequence numbers": (
        Change(
            "state/redis/lua/stream.lua",
            "  if sequence > position.settled then\n    return sequence == position.settled + 1 and 'NEXT' or 'BEYOND'",
            "  if true then\n    return 'NEXT'",
        ),
        Change("actors/memory.py", "        return self.inbox.place(number)", "        return Place.NEXT"),
    ),
    "no dead letter": (
        Change(
            "actors/settle.py",
            '        await self.world.persist("dead letter", lambda: self.world.broker.dead_letter(letter))\n',
            "",
        ),
    ),
    "goes on though it is paused": (Change("state/redis/lua/bound.lua", "return #bound.pauses > 0", "return false"),),
    "tells everybody that their settlement was first": (
        Change(
            "state/redis/lua/settle_promise.lua",
            "if answer == SETTLEMENT_ANSWER_DUPLICATE and promise.settlement_id == settlement_id then",
            "if answer == SETTLEMENT_ANSWER_DUPLICATE then",
        ),
    ),
    "delivers early": (
        Change("state/redis/lua/due.lua", "SCHEDULE, '-inf', exactly(now)", "SCHEDULE, '-inf', exactly(now + 1)"),
    ),
}


def broken(name: str, directory: Path) -> None:
    """Let processes that start from now on run a data plane that is broken so. Raises AssertionError where the product
    has changed and cannot be."""
    copy = directory / "broken"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for change in BREAKS[name]:
        path = copy / "troupe" / "dataplane" / change.file
        text = path.read_text()
        assert text.count(change.old) == 1, f"{change.file} has {text.count(change.old)} times {change.old!r}"
        path.write_text(text.replace(change.old, change.new))
    sys.path.insert(0, str(copy))
