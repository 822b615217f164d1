"""Rules of task and delay queues, each with a way to switch it off: what the simulation misses, it can be trusted
with."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

from fault.simulation_queues.network import Host, here
from fault.simulation_queues.people import Moment, Worker
from fault.simulation_queues.world import LIMIT
from pika import spec

from troupe.broker.port import Delivery
from troupe.broker.rabbitmq import broker, ladder, letters, relay, topology, url
from troupe.broker.rabbitmq.acks import Acks
from troupe.broker.rabbitmq.broker import RabbitmqBroker
from troupe.broker.rabbitmq.publisher import Publisher
from troupe.broker.rabbitmq.relay import Relay
from troupe.broker.rabbitmq.rescue import Rescue
from troupe.broker.rabbitmq.subscription import Hold, Subscribed
from troupe.dataplane.dead_letters.letters import DeadLetters

Switch = Callable[[], AbstractContextManager[Any]]


def no_copy_before_the_ack() -> AbstractContextManager[Any]:
    """What is put off is acked before its copy is confirmed."""
    real = RabbitmqBroker.defer

    async def hasty(self: RabbitmqBroker, delivery: Delivery, delay: float) -> None:
        if not delivery.acked:
            delivery.ack()
        await real(self, _acked(delivery), delay)

    return mock.patch.object(RabbitmqBroker, "defer", hasty)


def no_letter_before_the_ack() -> AbstractContextManager[Any]:
    """What is given up is acked before its letter is confirmed."""
    return mock.patch.object(Worker, "acks_first", True)


def no_copy_before_the_letter_goes() -> AbstractContextManager[Any]:
    """A letter is removed before its message is sent again."""
    real = DeadLetters._carry_out

    async def hasty(self: DeadLetters, pool: str, cases: Sequence[Any]) -> None:
        for case in cases:
            await case.held.remove()
        await real(self, pool, cases)

    return mock.patch.object(DeadLetters, "_carry_out", hasty)


def no_copy_before_a_stray_is_acked() -> AbstractContextManager[Any]:
    """A message without a queue is acked before it is sent to one."""
    return _acks_first(Rescue)


def no_copy_before_a_relayed_one_is_acked() -> AbstractContextManager[Any]:
    """A message between two delays is acked before it stands in the second."""
    return _acks_first(Relay)


@contextmanager
def no_sending_again() -> Iterator[None]:
    """What is unconfirmed when a connection goes is taken for confirmed."""
    real = Publisher._end

    def careless(self: Publisher) -> None:
        for parcel in self._flight.values():
            parcel.settle(None)
        self._flight.clear()
        real(self)

    with mock.patch.object(Publisher, "_end", careless):
        yield


def no_look_at_returns() -> AbstractContextManager[Any]:
    """What no queue took is confirmed all the same."""
    return mock.patch.object(Publisher, "_on_return", lambda *_: None)


def no_declaring_again() -> AbstractContextManager[Any]:
    """A queue that is gone stays gone for those who publish."""

    async def nothing(self: RabbitmqBroker, name: str) -> None:
        return

    return mock.patch.object(RabbitmqBroker, "_mend_queue", nothing)


def no_place_for_strays() -> AbstractContextManager[Any]:
    """What comes back from a delay queue and finds no queue waits there."""
    exchanges = tuple(dataclasses.replace(each, alternate="") for each in topology.EXCHANGES)
    return mock.patch.object(topology, "EXCHANGES", exchanges)


def no_confirms_between_queues() -> AbstractContextManager[Any]:
    """The server forgets what it moves from queue to queue, and what moves when it dies is lost."""
    return mock.patch.object(topology, "_AT_LEAST_ONCE", {})


def no_refusing_of_publishes() -> AbstractContextManager[Any]:
    """Confirms between queues are asked for, without what RabbitMQ wants for them."""
    return mock.patch.object(topology, "_AT_LEAST_ONCE", {"x-dead-letter-strategy": "at-least-once"})


def no_queue_for_each_delay() -> AbstractContextManager[Any]:
    """All that is put off waits in one queue, each for its own time: it leaves from the head only."""
    real = RabbitmqBroker._send_to

    async def together(
        self: RabbitmqBroker, exchange: str, key: str, body: bytes, headers: Mapping[str, Any], name: str | None = None
    ) -> None:
        if ".delay." in exchange:
            properties = spec.BasicProperties(headers=headers, delivery_mode=2, expiration=exchange.rpartition(".")[2])
            route = self._route_to(topology.delay_queue(ladder.RUNGS[-1]).name, key)
            await self._send(route, body, b"".join(properties.encode()))
        else:
            await real(self, exchange, key, body, headers, name)

    return mock.patch.object(RabbitmqBroker, "_send_to", together)


@contextmanager
def no_time_of_the_server() -> Iterator[None]:
    """A long delay is over when the worker that gets the message back thinks so."""
    real = Relay._go_on

    async def dated(send: relay.Send, queue: str, body: bytes, delay: float) -> None:
        exchange = topology.delay_queue(ladder.rung(delay)).name
        if ladder.left(delay):
            due = int((Moment.time() + delay) * 1_000)
            await send(exchange, topology.RELAY.name, body, {relay._QUEUE: queue, relay._LEFT: due})
        else:
            await send(exchange, queue, body, {})

    async def by_clock(self: Relay, delivery: Delivery, queue: str, due: float) -> None:
        await real(self, delivery, queue, max(0.0, due - Moment.time()))

    with mock.patch.object(relay, "defer", dated), mock.patch.object(Relay, "_go_on", by_clock):
        yield


def no_count_of_attempts() -> AbstractContextManager[Any]:
    """Each attempt is the first."""
    return mock.patch.object(broker, "retried", lambda body: (0, body))


def no_limit_of_deliveries() -> AbstractContextManager[Any]:
    """What kills each worker is delivered for ever."""
    real = topology._dying
    limit = "x-delivery-limit"
    return mock.patch.object(
        topology, "_dying", lambda pool: {name: value for name, value in real(pool).items() if name != limit}
    )


def no_endless_looks_at_letters() -> AbstractContextManager[Any]:
    """Each look at a letter is one of its last."""
    real = topology.letter_queue
    return mock.patch.object(
        topology, "letter_queue", lambda pool: dataclasses.replace(real(pool), more={"x-delivery-limit": LIMIT})
    )


def no_latest_death() -> AbstractContextManager[Any]:
    """A letter of the server's says what its message went through first."""
    real = letters._of_server

    def first(pool: str, body: bytes, found: Mapping[str, Any], published: float) -> Any:
        return real(pool, body, {**found, "x-death": found.get("x-death", [])[::-1]}, published)

    return mock.patch.object(letters, "_of_server", first)


def no_probing() -> AbstractContextManager[Any]:
    """A consumer that the server forgot waits for ever."""
    return mock.patch.object(Subscribed, "renew", lambda self: None)


def no_probing_of_its_own_queues() -> AbstractContextManager[Any]:
    """So does one that carries messages on."""
    real = Subscribed.renew

    def of_pools(self: Subscribed) -> None:
        if ".task." in self.queue.name:
            real(self)

    return mock.patch.object(Subscribed, "renew", of_pools)


def no_single_acks() -> AbstractContextManager[Any]:
    """An ack takes those before it along."""

    def all_of_them(self: Acks) -> tuple[int, int, list[int]]:
        fresh, self._fresh = self._fresh, []
        return len(fresh), max(fresh, default=0), []

    return mock.patch.object(Acks, "take", all_of_them)


@contextmanager
def no_void_deliveries() -> Iterator[None]:
    """Acks of what a lost channel brought go out over the next one, under their old numbers."""
    newest: dict[tuple[Host, str], Hold] = {}
    begin, settle = Hold._consume, Hold._settle

    async def begun(self: Hold, *given: Any) -> None:
        newest[here.get(), self._queue] = self
        await begin(self, *given)

    def settled(self: Hold, tag: int) -> None:
        settle(newest[here.get(), self._queue], tag)

    with mock.patch.object(Hold, "_consume", begun), mock.patch.object(Hold, "_settle", settled):
        yield


def no_heartbeats() -> AbstractContextManager[Any]:
    """Nobody notices that a connection is dead."""
    return mock.patch.object(url, "_heartbeat", lambda text: 0)


def _acks_first(carrier: type[Any]) -> AbstractContextManager[Any]:
    real = carrier.handle

    def hasty(self: Any, delivery: Delivery, *given: Any) -> None:
        delivery.ack()
        real(self, _acked(delivery), *given)

    return mock.patch.object(carrier, "handle", hasty)


def _acked(delivery: Delivery) -> Delivery:
    """One that may be acked once more, to no effect."""
    return dataclasses.replace(delivery, settle=lambda: None, acked=False)


OFF: Mapping[str, Switch] = {
    name.removeprefix("no_").replace("_", " "): switch for name, switch in globals().items() if name.startswith("no_")
}
