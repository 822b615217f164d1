"""What a fleet declares in its vhost, as data. Arguments cannot be changed once declared: a change means new names,
which is why names carry a version. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from troupe.broker.addressing import NAME, mailbox, task_queue
from troupe.broker.port import AGENTS
from troupe.broker.rabbitmq.ladder import RUNGS

PREFIX = "troupe.v1."
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
IN = PREFIX + "in"
"""Where publishers publish. No alternate exchange: what has no queue comes back to its publisher."""
WORK = PREFIX + "work"
"""Where delay queues return to."""
UNROUTABLE = PREFIX + "unroutable"
"""Takes what has no queue and no publisher that waits for it: exchange and queue of this name."""
DEAD = PREFIX + "dlx"
"""Where dead letters are sent, with their pool as the routing key."""

DELIVERY_LIMIT = 1_000
"""Deliveries of one message before the server itself gives it up: the last net, far above what runs count."""
NO_LIMIT = 1_000_000_000
"""Deliveries of queues that must never give up a message. RabbitMQ 4 gives up after 20 where nothing is said, and
each look at a letter is one; 3.10 takes no -1 for `never`: it would give up the first."""


@dataclass(frozen=True, slots=True)
class Exchange:
    name: str
    kind: str = "direct"
    alternate: str = ""

    @property
    def arguments(self) -> dict[str, object]:
        return {"alternate-exchange": self.alternate} if self.alternate else {}


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable quorum queue."""

    name: str
    bindings: tuple[tuple[str, str], ...]
    """Exchange and routing key of each."""
    more: Mapping[str, object] = field(default_factory=dict)

    @property
    def single(self) -> bool:
        """Whether one consumer at a time gets its messages."""
        return "x-single-active-consumer" in self.more

    @property
    def arguments(self) -> dict[str, object]:
        return {"x-queue-type": "quorum", **self.more}


EXCHANGES = (
    Exchange(IN),
    Exchange(WORK, alternate=UNROUTABLE),
    Exchange(UNROUTABLE, kind="fanout"),
    Exchange(DEAD, alternate=UNROUTABLE),
    *(Exchange(f"{PREFIX}delay.{rung}", kind="fanout") for rung in RUNGS),
)


STRAYS = Queue(UNROUTABLE, ((UNROUTABLE, ""),), {"x-delivery-limit": NO_LIMIT})
"""Holds what had no queue, until somebody declares that and sends it there."""


_RELAY = PREFIX + "relay"
RELAY = Queue(_RELAY, ((IN, _RELAY), (WORK, _RELAY)), {"x-delivery-limit": NO_LIMIT})
"""Where messages come back to whose delay one delay queue does not cover: none of them waits behind a pool's work."""


def queues(shards: int, pools: Sequence[str] = ()) -> Iterator[Queue]:
    """All queues of a fleet. Those that others lead to come first."""
    yield STRAYS
    yield RELAY
    for pool in (AGENTS, *pools):
        yield letter_queue(pool)
    for shard in range(shards):
        yield mailbox_queue(shard)
    for pool in pools:
        yield pool_queue(pool)
    for rung in RUNGS:
        yield delay_queue(rung)


def marker(shards: int) -> Queue:
    """Remembers the number of shards: the server refuses to declare it with another one, however many processes try
    at once. Nothing is ever in it."""
    return Queue(PREFIX + "topology", (), {"x-max-length": shards})


def mailbox_queue(shard: int) -> Queue:
    name = mailbox(shard)
    return Queue(name, ((IN, name),), {"x-single-active-consumer": True, **_dying(AGENTS)})


def pool_queue(pool: str) -> Queue:
    name = task_queue(pool)
    return Queue(name, ((IN, name), (WORK, name)), _dying(pool))


def letter_queue(pool: str) -> Queue:
    return Queue(f"{PREFIX}dlq.{pool}", ((DEAD, pool),), {"x-delivery-limit": NO_LIMIT})


def delay_queue(rung: int) -> Queue:
    """Each message leaves after `rung` milliseconds, to the queue that its routing key names."""
    name = f"{PREFIX}delay.{rung}"
    return Queue(
        name,
        ((name, ""),),
        {"x-message-ttl": rung, "x-dead-letter-exchange": WORK, "x-delivery-limit": NO_LIMIT, **_AT_LEAST_ONCE},
    )


def destination(exchange: str, key: str) -> str:
    """The queue that a message to `exchange` with this routing key is for."""
    if exchange == DEAD:
        return letter_queue(key).name
    return exchange if exchange.startswith(f"{PREFIX}delay.") else key


def found(name: str) -> Queue | None:
    """The declaration of a queue that may have been deleted. None: no fleet has one of that name."""
    kind, _, rest = name.removeprefix(PREFIX).partition(".") if name.startswith(PREFIX) else ("", "", "")
    if name == RELAY.name:
        return RELAY
    if kind == "mailbox" and _NUMBER.fullmatch(rest):
        return mailbox_queue(int(rest))
    if kind == "task" and NAME.fullmatch(rest):
        return pool_queue(rest)
    if kind == "dlq" and NAME.fullmatch(rest):
        return letter_queue(rest)
    if kind == "delay" and _NUMBER.fullmatch(rest) and int(rest) in RUNGS:
        return delay_queue(int(rest))
    return None


# Without reject-publish the server silently falls back to at-most-once.
_AT_LEAST_ONCE: Mapping[str, object] = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}


def _dying(pool: str) -> dict[str, object]:
    return {
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": DEAD,
        "x-dead-letter-routing-key": pool,
        **_AT_LEAST_ONCE,
    }
