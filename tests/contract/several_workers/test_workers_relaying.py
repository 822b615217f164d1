"""What one worker asks another is not asked of a third."""

import pytest
from support.member_calls import REF, RELAYED, converse, send, session
from support.worker_fleet import Member, WorkerFleet

from troupe.chassis.errors import Aborted, Unavailable
from troupe.chassis.rpc_client import translated
from troupe.v1 import agent_pb2 as pb
from troupe.v1 import turn_pb2


class TestRelayedOnce:
    async def test_what_was_relayed_is_not_relayed_again(
        self, fleet: WorkerFleet, owner: Member, other: Member
    ) -> None:
        """Each takes the other for the owner."""
        await send(owner)
        await fleet.give_all(other, tell=[owner])
        subscribe = pb.SubscribeRequest(session=REF, message_id="m")
        for request in (subscribe, pb.SubscribeRequest(session=REF)):
            with pytest.raises(Aborted) as refused, translated():
                async for _ in owner.agents.Subscribe(request, metadata=RELAYED, timeout=5):
                    pass
            assert refused.value.reason == "NOT_OWNER"
        with pytest.raises(Unavailable), translated():
            await owner.agents.DeleteSession(pb.DeleteSessionRequest(session=REF), metadata=RELAYED, timeout=5)
        answer = await owner.agents.GetSession(pb.GetSessionRequest(session=REF), metadata=RELAYED, timeout=5)
        assert answer.session.turns == 1
        asked = pb.GetMessageRequest(session=REF, message_id="m")
        told = await owner.agents.GetMessage(asked, metadata=RELAYED, timeout=5)
        assert told.status.fate == turn_pb2.FATE_UNSEEN

    async def test_two_that_take_each_other_for_the_owner_do_not_call_for_ever(
        self, fleet: WorkerFleet, owner: Member, other: Member
    ) -> None:
        await send(owner)
        await fleet.give_all(other, tell=[owner])
        stream = converse(owner, message_id="m")
        await stream.has("accepted")
        assert (await session(owner)).turns == 1
        await fleet.place({}, tell=[other])
        assert (await stream.end()).completed.result.text == "2"
