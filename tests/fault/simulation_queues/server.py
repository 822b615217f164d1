"""The server: its exchanges and queues, and its end of each connection."""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fault.simulation_queues.history import History
from fault.simulation_queues.queues import Log, Message, Queue
from pika import frame, spec

PATIENCE = 60.0
"""Seconds that a delivery may be unacked before its channel is closed, in place of half an hour."""
PROPERTIES = {
    "product": "RabbitMQ",
    "version": "3.10.8",
    "capabilities": {
        "publisher_confirms": True,
        "basic.nack": True,
        "consumer_cancel_notify": True,
        "connection.blocked": True,
    },
}


@dataclass(slots=True)
class Exchange:
    kind: str
    alternate: str
    bindings: list[tuple[str, str]] = field(default_factory=list)
    """Routing key and queue of each."""


class Server:
    """Outlives its crashes, with what is written."""

    def __init__(self, dice: random.Random, history: History) -> None:
        self._dice, self._history = dice, history
        self.log = Log(dice)
        self.exchanges: dict[str, Exchange] = {}
        self.queues: dict[str, Queue] = {}
        self.connections: list[Connection] = []
        self.up = True

    def crash(self) -> None:
        """kill -9; `start` brings it back."""
        self.up = False
        for connection in list(self.connections):
            connection.end(silently=True)
        self.log.crash()
        for queue in self.queues.values():
            queue.crash()

    def start(self) -> None:
        self.up = True

    def delete(self, name: str) -> None:
        """Somebody deletes a queue. What is in one, or on its way, is theirs to lose: so it is an empty one, while
        nothing is being written."""
        queue = self.queues.pop(name)
        for exchange in self.exchanges.values():
            exchange.bindings = [binding for binding in exchange.bindings if binding[1] != name]
        for consumer in queue.consumers:
            consumer.cancelled()

    def route(self, exchange: str, key: str) -> list[Queue]:
        """The queues for a message; of the alternate exchange where there are none."""
        found = self.exchanges.get(exchange)
        if found is None:
            return []
        names = [name for bound, name in found.bindings if found.kind == "fanout" or bound == key]
        if not names and found.alternate:
            return self.route(found.alternate, key)
        return [self.queues[name] for name in names]

    def declare(self, name: str, arguments: Mapping[str, Any]) -> Queue | None:
        """None: it is there with other arguments."""
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue(name, arguments, self.log, self.route, self._history)
        return queue if queue.arguments == dict(arguments) else None

    def inject(self, key: str, body: bytes) -> None:
        """Somebody else's message is written to the pool's queue."""
        properties = spec.BasicProperties(delivery_mode=2)
        self.log.append(lambda: self.queues[key].push(Message("", key, body, properties)))


class Refused(Exception):
    """Closes the channel."""

    def __init__(self, code: int, text: str, method: type[Any]) -> None:
        super().__init__(text)
        self.code, self.text, self.method = code, text, method


class Connection:
    """The server's end of one. `send` writes to the client, `hang_up` closes."""

    def __init__(
        self, server: Server, history: History, send: Callable[[bytes], None], hang_up: Callable[[], None]
    ) -> None:
        self.server, self.history, self._send, self._hang_up = server, history, send, hang_up
        self._channels: dict[int, Channel] = {}
        self._buffer = b""
        self._heartbeat = 0.0
        self._heard = self._quiet = 0
        self.open = True
        server.connections.append(self)

    def received(self, data: bytes) -> None:
        if not self.open:
            return
        self._heard += 1
        self._buffer += data
        while self._buffer and self.open:
            size, found = frame.decode_frame(self._buffer)
            if found is None:
                break
            self._buffer = self._buffer[size:]
            self._take(found)

    def end(self, *, silently: bool = False) -> None:
        """It is gone, as far as the server knows. `silently`: with the server itself, which then gives back what was
        unacked."""
        if not self.open:
            return
        self.open = False
        self.server.connections.remove(self)
        for channel in list(self._channels.values()):
            channel.end(give_back=not silently)
        self._hang_up()

    def tell(self, number: int, method: Any, properties: spec.BasicProperties | None = None, body: bytes = b"") -> None:
        if not self.open:
            return
        data: bytes = frame.Method(number, method).marshal()
        if properties is not None:
            data += frame.Header(number, len(body), properties).marshal()
            data += frame.Body(number, body).marshal() if body else b""
        self._send(data)

    def forget(self, number: int) -> None:
        self._channels.pop(number, None)

    def _take(self, found: Any) -> None:
        number = getattr(found, "channel_number", 0)
        if isinstance(found, frame.ProtocolHeader):
            start = spec.Connection.Start(0, 9, PROPERTIES, mechanisms="PLAIN", locales="en_US")  # type: ignore[arg-type]
            self.tell(0, start)
        elif isinstance(found, frame.Heartbeat):
            return
        elif number:
            channel = self._channels.get(number)
            if isinstance(found, frame.Method) and isinstance(found.method, spec.Channel.Open):
                self._channels[number] = Channel(self, number)
                self.tell(number, spec.Channel.OpenOk())
            elif channel is not None:
                channel.take(found)
        elif isinstance(found.method, spec.Connection.StartOk):
            self.tell(0, spec.Connection.Tune(2_047, 131_072, 60))
        elif isinstance(found.method, spec.Connection.TuneOk):
            self._heartbeat = found.method.heartbeat or 0
            if self._heartbeat:
                self._beats()
                self._listens()
        elif isinstance(found.method, spec.Connection.Open):
            self.tell(0, spec.Connection.OpenOk())
        elif isinstance(found.method, spec.Connection.Close):
            self.tell(0, spec.Connection.CloseOk())
            self.end()

    def _beats(self) -> None:
        if self.open:
            self._send(frame.Heartbeat().marshal())
            asyncio.get_running_loop().call_later(self._heartbeat / 2, self._beats)

    def _listens(self) -> None:
        """Two times without a byte are an end."""
        if not self.open:
            return
        self._quiet = 0 if self._heard else self._quiet + 1
        self._heard = 0
        if self._quiet == 2:
            self.end()
        else:
            asyncio.get_running_loop().call_later(self._heartbeat, self._listens)


class Channel:
    """The server's end of one."""

    def __init__(self, connection: Connection, number: int) -> None:
        self._connection, self._number, self._server = connection, number, connection.server
        self._prefetch, self._tags, self._published = 0, 0, 0
        self._confirms = self._closing = self._gone = False
        self._publishing: spec.Basic.Publish | None = None
        self._properties = spec.BasicProperties()
        self._left, self._body = 0, b""
        self._consumers: dict[str, Receiver] = {}
        self.unacked: dict[int, tuple[Queue, Message, Receiver]] = {}
        self._unconfirmed: dict[int, bytes] = {}
        """What was published here, until its confirm is on its way."""

    def take(self, found: Any) -> None:
        if self._closing:
            if isinstance(found, frame.Method) and isinstance(found.method, spec.Channel.CloseOk):
                self._connection.forget(self._number)
            return
        try:
            self._taken(found)
        except Refused as refusal:
            self._refuse(refusal)

    def end(self, *, give_back: bool) -> None:
        self._gone = True
        for consumer in self._consumers.values():
            consumer.leave()
        self._consumers.clear()
        unacked, self.unacked = self.unacked, {}
        for _, message, _ in unacked.values():
            self._connection.history.excuse(message.body)
        if give_back:
            for queue in dict.fromkeys(queue for queue, _, _ in unacked.values()):
                queue.give_back([message for its, message, _ in unacked.values() if its is queue])

    def deliver(self, receiver: "Receiver", message: Message) -> None:
        self._tags += 1
        self.unacked[self._tags] = (receiver.queue, message, receiver)
        headers = message.headers
        if message.returns:
            headers["x-delivery-count"] = message.returns
        properties = spec.BasicProperties(
            headers=headers or None,
            delivery_mode=message.properties.delivery_mode,
            message_id=message.properties.message_id,
            timestamp=message.properties.timestamp,
        )
        deliver = spec.Basic.Deliver(receiver.tag, self._tags, message.returns > 0, message.exchange, message.key)
        self._connection.tell(self._number, deliver, properties, message.body)
        asyncio.get_running_loop().call_later(PATIENCE, self._overdue, self._tags)

    def cancelled(self, receiver: "Receiver") -> None:
        if self._consumers.pop(receiver.tag, None) is not None:
            self._connection.tell(self._number, spec.Basic.Cancel(receiver.tag, True))

    def _overdue(self, tag: int) -> None:
        if tag in self.unacked and not self._closing:
            self._refuse(Refused(406, "delivery acknowledgement timed out", spec.Channel.Close))

    def _refuse(self, refusal: Refused) -> None:
        self._closing = True
        self.end(give_back=True)
        class_id, method_id = divmod(refusal.method.INDEX, 1 << 16)
        self._connection.tell(self._number, spec.Channel.Close(refusal.code, refusal.text, class_id, method_id))

    def _tell(self, method: Any) -> None:
        self._connection.tell(self._number, method)

    def _taken(self, found: Any) -> None:
        match found:
            case frame.Header():
                self._properties, self._left, self._body = found.properties, found.body_size, b""
            case frame.Body():
                self._body += found.fragment
            case _:
                return self._asked(found.method)
        if self._publishing is not None and len(self._body) == self._left:
            method, self._publishing = self._publishing, None
            self._publish(method, Message(method.exchange, method.routing_key, self._body, self._properties))
        return None

    def _asked(self, method: Any) -> None:
        match method:
            case spec.Basic.Publish():
                self._publishing = method
            case spec.Basic.Ack():
                self._ack(method.delivery_tag, method.multiple)
            case spec.Basic.Reject():
                if (found := self.unacked.pop(method.delivery_tag or 0, None)) is not None:
                    found[0].give_back([found[1]])
            case spec.Confirm.Select():
                self._confirms = True
                self._tell(spec.Confirm.SelectOk())
            case spec.Exchange.Declare():
                alternate = (method.arguments or {}).get("alternate-exchange", "")
                self._server.exchanges.setdefault(str(method.exchange), Exchange(method.type, alternate))
                self._tell(spec.Exchange.DeclareOk())
            case spec.Queue.Declare():
                queue = self._declared(method)
                self._tell(spec.Queue.DeclareOk(queue.name, len(queue.ready), len(queue.consumers)))
            case spec.Queue.Bind():
                if method.queue not in self._server.queues:
                    raise Refused(404, f"no queue {method.queue}", spec.Queue.Bind)
                bindings = self._server.exchanges[str(method.exchange)].bindings
                if (binding := (method.routing_key, method.queue)) not in bindings:
                    bindings.append(binding)
                self._tell(spec.Queue.BindOk())
            case spec.Basic.Qos():
                self._prefetch = method.prefetch_count
                self._tell(spec.Basic.QosOk())
            case spec.Basic.Consume():
                self._consume(method)
            case spec.Basic.Cancel():
                if (consumer := self._consumers.pop(str(method.consumer_tag), None)) is not None:
                    consumer.leave()
                self._tell(spec.Basic.CancelOk(method.consumer_tag))
            case spec.Channel.Close():
                self.end(give_back=True)
                self._tell(spec.Channel.CloseOk())
                self._connection.forget(self._number)
            case _:
                raise AssertionError(f"the server does not know {method}")

    def _declared(self, method: spec.Queue.Declare) -> Queue:
        if method.passive:
            found = self._server.queues.get(method.queue)
            if found is None:
                raise Refused(404, f"no queue {method.queue}", spec.Queue.Declare)
            return found
        found = self._server.declare(method.queue, method.arguments or {})
        if found is None:
            raise Refused(406, f"inequivalent arguments for queue {method.queue}", spec.Queue.Declare)
        return found

    def _consume(self, method: spec.Basic.Consume) -> None:
        queue = self._server.queues.get(method.queue)
        if queue is None:
            raise Refused(404, f"no queue {method.queue}", spec.Basic.Consume)
        receiver = self._consumers[method.consumer_tag] = Receiver(self, queue, method.consumer_tag, self._prefetch)
        queue.consumers.append(receiver)
        self._tell(spec.Basic.ConsumeOk(method.consumer_tag))
        queue.pump()

    def _publish(self, method: spec.Basic.Publish, message: Message) -> None:
        if method.exchange not in self._server.exchanges:
            raise Refused(404, f"no exchange {method.exchange}", spec.Basic.Publish)
        self._published += 1
        queues = self._server.route(method.exchange, message.key)
        if not queues:
            if method.mandatory:
                returned = spec.Basic.Return(312, "NO_ROUTE", method.exchange, message.key)
                self._connection.tell(self._number, returned, message.properties, message.body)
            self._confirm(self._published)
            return

        def write(tag: int) -> None:
            for queue in queues:
                queue.push(message)
            self._confirm(tag)

        self._server.log.append(partial(write, self._published))

    def _confirm(self, tag: int) -> None:
        if self._confirms and not self._gone:
            self._tell(spec.Basic.Ack(tag))

    def _ack(self, tag: int, multiple: bool) -> None:
        tags = [each for each in self.unacked if each <= tag] if multiple else [tag]
        if tag not in self.unacked:
            raise Refused(406, f"unknown delivery tag {tag}", spec.Basic.Ack)
        for each in tags:
            queue, message, _ = self.unacked.pop(each)
            queue.settle(message)


class Receiver:
    """A consumer."""

    def __init__(self, channel: Channel, queue: Queue, tag: str, prefetch: int) -> None:
        self._channel, self.queue, self.tag, self._prefetch = channel, queue, tag, prefetch

    @property
    def room(self) -> bool:
        held = sum(receiver is self for _, _, receiver in self._channel.unacked.values())
        return self._prefetch == 0 or held < self._prefetch

    def deliver(self, message: Message) -> None:
        self._channel.deliver(self, message)

    def cancelled(self) -> None:
        self._channel.cancelled(self)

    def leave(self) -> None:
        if self in self.queue.consumers:
            self.queue.consumers.remove(self)
