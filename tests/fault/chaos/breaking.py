"""Ways to break the product on purpose, so that it can be seen whether a storm shows it: `python -m fault.chaos --break
NAME`. Each takes away one thing that the product does against loss or repetition."""

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
    "no fence": (
        Change("state/redis/lua/fence.lua", "  if owner.epoch > fence.epoch or (", "  if true or ("),
        Change("state/redis/lua/fence.lua", "  if owner.epoch > fence.epoch then", "  if true then"),
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
    "publishes what a turn sends before its commit": (
        Change(
            "actors/settle.py",
            "        records = [self._record(turn, status)",
            "        envelope = type(self.turn.envelope)\n"
            "        await self.world.broker.publish_many([envelope.FromString(one.envelope) for one in sent])\n"
            "        records = [self._record(turn, status)",
        ),
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
