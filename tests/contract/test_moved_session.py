"""Who follows all of a session hears its new owner as soon as the placement names it."""

import asyncio
from pathlib import Path

from support.serving_worker import COUNTER
from support.worker_fleet import Member, worker_fleet

from troupe.chassis.wire import duration
from troupe.v1 import agent_pb2 as pb
from troupe.v1 import turn_pb2
from troupe.v1.envelope_pb2 import Content, SessionRef

REF = SessionRef(agent="counter", session="s")


async def send(member: Member) -> None:
    request = pb.SendRequest(session=REF, content=Content(text="hello"), wait=duration(5))
    assert (await member.agents.Send(request, timeout=10)).status.fate == turn_pb2.FATE_DONE


async def test_an_owner_that_stalled_is_left_while_its_lease_lasts(tmp_path: Path) -> None:
    async with worker_fleet(tmp_path, "owner", "other", "third", resources=[COUNTER]) as fleet:
        owner, other, third = (fleet.members[name] for name in ("owner", "other", "third"))
        completed: list[str] = []

        async def follow() -> None:
            async for response in third.agents.Subscribe(pb.SubscribeRequest(session=REF)):
                if response.event.HasField("completed"):
                    completed.append(response.event.message_id)

        # Given somebody who follows a session by way of a third worker
        following = asyncio.create_task(follow())
        await seen(owner, completed)

        # When its owner stalls, and the session is another's before the lease has ended
        await owner.freeze()
        await fleet.give_all(other, tell=[other, third], live=[owner, other, third])

        # Then its events go on
        await seen(other, completed)
        following.cancel()
        await asyncio.wait([following])


async def seen(member: Member, completed: list[str]) -> None:
    """Messages by way of this worker reach the follower: the first ones may come before it is there."""
    before = len(completed)
    async with asyncio.timeout(10):
        while len(completed) == before:
            await send(member)
            await asyncio.sleep(0.05)
