"""What a worker takes for the placement, and when it lets messages in."""

import asyncio

import pytest

from troupe.chassis.errors import FailedPrecondition, Unavailable
from troupe.dataplane import placement as module
from troupe.dataplane.placement import Placement
from troupe.dataplane.state.session import Owner
from troupe.v1.data_plane_pb2 import PlaceRequest, ShardAssignment


def request(version: int, *mine: int, term: int = 1, shards: int = 8) -> PlaceRequest:
    assigned = [
        ShardAssignment(shard=shard, epoch=3, worker_id="w", instance_id="me" if shard in mine else "other")
        for shard in range(shards)
    ]
    return PlaceRequest(term=term, version=version, shard_count=shards, shards=assigned)


def test_its_own_shards_are_those_of_this_process() -> None:
    placement = Placement("me")
    placement.take(request(1, 2, 5))
    assert placement.mine == [Owner(2, 3, "me"), Owner(5, 3, "me")]


@pytest.mark.parametrize(("term", "version", "taken"), [(1, 3, True), (1, 2, True), (1, 1, False), (2, 1, True)])
def test_an_older_placement_is_refused(term: int, version: int, taken: bool) -> None:
    placement = Placement("me")
    placement.take(request(2, 0))
    if taken:
        placement.take(request(version, 1, term=term))
        assert placement.mine == [Owner(1, 3, "me")]
    else:
        with pytest.raises(FailedPrecondition):
            placement.take(request(version, 1, term=term))
        assert placement.mine == [Owner(0, 3, "me")]


def test_it_knows_every_owner_and_which_shards_changed_hands() -> None:
    placement = Placement("me")
    assert placement.owner_of(0) is None
    assert placement.take(request(1, 2, 5)) == set(range(8))
    assert placement.take(request(2, 2, 6)) == {5, 6}
    owner = placement.owner_of(5)
    assert owner is not None
    assert (owner.worker_id, owner.instance_id, owner.epoch) == ("w", "other", 3)
    assert placement.is_mine(6)
    assert not placement.is_mine(5)
    assert placement.take(PlaceRequest(term=1, version=3, shard_count=8)) == set(range(8))
    assert placement.owner_of(6) is None


def test_its_own_shards_can_be_revoked_and_stay_its_own() -> None:
    placement = Placement("me")
    revoking = request(1, 2, 5)
    for number in (1, 5):
        revoking.shards[number].revoked = True
    placement.take(revoking)
    assert placement.revoked == {5}
    assert [owner.shard for owner in placement.mine] == [2, 5]
    placement.take(request(2, 2))
    assert placement.revoked == frozenset()


def test_nobody_is_gone_while_it_is_not_known_who_is_there() -> None:
    placement = Placement("me")
    placement.take(request(1, 2))
    other = placement.owner_of(0)
    assert other is not None
    assert (placement.live, placement.is_gone(other)) == (None, False)
    known = request(1, 2)
    known.live_instance_ids.extend(["me", "other"])
    placement.take(known)
    assert placement.live == frozenset(("me", "other"))
    assert placement.is_gone(other) is False
    known.live_instance_ids.remove("other")
    placement.take(known)
    assert placement.is_gone(other)


def test_a_deployment_keeps_its_number_of_shards() -> None:
    placement = Placement("me")
    placement.take(request(1, 0))
    with pytest.raises(FailedPrecondition):
        placement.take(request(2, 0, shards=16))


async def test_nothing_is_let_in_before_the_mailboxes_are_there() -> None:
    # Given a placement that is known, whose mailboxes are not made yet
    placement = Placement("me")
    placement.take(request(1, 0))
    waiting = asyncio.create_task(placement.ready())
    await asyncio.sleep(0)
    assert not waiting.done()
    # When they are
    placement.open()
    # Then it is
    await waiting
    assert placement.shard_count == 8


async def test_who_waits_too_long_is_told_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    with pytest.raises(Unavailable) as caught:
        await Placement("me").ready()
    assert caught.value.reason == "NO_PLACEMENT"
    assert caught.value.retry_after
