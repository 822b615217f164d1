"""What a follower is told of attempts that it saw begin and not end."""

from typing import Any

import pytest

from troupe.broker.addressing import SessionKey
from troupe.broker.order import Number
from troupe.chassis.clock import SystemClock
from troupe.dataplane.actors.hub import Hub
from troupe.dataplane.following import Following
from troupe.dataplane.peers import Peers
from troupe.dataplane.placement import Placement
from troupe.v1.data_plane_pb2 import PlaceRequest, ShardAssignment
from troupe.v1.turn_pb2 import Completed, Event, Sealed, Started, Suspended, TokenDelta

KEY = SessionKey("default", "default", "clerk", "s")
NUMBER = Number("stream", 1)


class Holds:
    """In the part of the host: it holds every shard."""

    def owner(self, shard: int) -> bool:
        return True


async def shown(*kinds: Event) -> list[str]:
    """What who sent the message sees of these events; each names its epoch and attempt."""
    placement, hub = Placement("me"), Hub()
    placement.take(
        PlaceRequest(term=1, version=1, shard_count=1, shards=[ShardAssignment(shard=0, instance_id="me", epoch=1)])
    )
    missing: Any = None
    host: Any = Holds()
    following = Following(missing, hub, host, placement, Peers(), SystemClock())
    with following.message(KEY, "m") as follower, hub.log(KEY, "m", runs=True) as log:
        follower.sent(NUMBER)
        for sequence, kind in enumerate(kinds, 1):
            event = Event(message_id="m", sequence=sequence)
            event.MergeFrom(kind)
            log.append(event)
        return [str(event.WhichOneof("kind")) async for event in follower.events()]


def at(epoch: int, attempt: int, **kind: Any) -> Event:
    return Event(epoch=epoch, attempt=attempt, **kind)


STARTED = Started(worker_id="w")
GOES_ON = Started(worker_id="w", continues=True)
TEXT = TokenDelta(text="so far")
DONE = Completed()


@pytest.mark.parametrize(
    ("events", "sees"),
    [
        (
            [
                at(1, 0, started=STARTED),
                at(1, 0, token_delta=TEXT),
                at(2, 1, started=STARTED),
                at(2, 1, completed=DONE),
            ],
            ["started", "token_delta", "sealed", "started", "completed"],
        ),
        (
            [at(1, 0, started=STARTED), at(1, 0, sealed=Sealed()), at(1, 1, started=STARTED), at(1, 1, completed=DONE)],
            ["sealed", "started", "completed"],
        ),
        (
            [
                at(1, 0, started=STARTED),
                at(1, 0, suspended=Suspended()),
                at(2, 1, started=STARTED),
                at(2, 1, completed=DONE),
            ],
            ["started", "suspended", "started", "completed"],
        ),
        (
            [
                at(1, 0, started=STARTED),
                at(1, 0, token_delta=TEXT),
                at(2, 1, started=GOES_ON),
                at(2, 1, completed=DONE),
            ],
            ["started", "token_delta", "started", "completed"],
        ),
        (
            [
                at(1, 0, started=STARTED),
                at(1, 0, token_delta=TEXT),
                at(2, 2, started=GOES_ON),
                at(2, 2, completed=DONE),
            ],
            ["started", "token_delta", "sealed", "started", "completed"],
        ),
    ],
    ids=["it is void", "said to be void", "it ended in a wait", "its wait was not seen", "another was not seen at all"],
)
async def test_an_attempt_that_another_follows_is_void_unless_it_ended_in_a_wait(
    events: list[Event], sees: list[str]
) -> None:
    assert await shown(*events) == sees
