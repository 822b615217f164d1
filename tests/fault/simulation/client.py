"""Clients: they send, wait, send again with the same id, cancel, delete, and tell the history what they were told."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing

from fault.simulation.history import History
from fault.simulation.store import told
from fault.simulation.worker import Worker

from troupe.broker.addressing import SessionKey
from troupe.chassis.errors import AlreadyExists, NotFound, TroupeError
from troupe.chassis.wire import duration
from troupe.dataplane.gateway import FINAL
from troupe.v1.agent_pb2 import SendRequest
from troupe.v1.envelope_pb2 import Content
from troupe.v1.turn_pb2 import Completed, Event, Failed, Fate

REFUSED = "refused: other payload"


class Clients:
    """All of them. `workers` are those that they may reach now."""

    def __init__(
        self, workers: Callable[[], Sequence[Worker]], history: History, dice: random.Random, faulty: Callable[[], bool]
    ) -> None:
        self._workers, self._history, self._dice, self._faulty = workers, history, dice, faulty
        self._verbs = 0

    async def send(self, key: SessionKey, message_id: str, payload: str, expires: float | None) -> None:
        """Send until it is confirmed, or given up."""
        while True:
            request = SendRequest(session=key.ref(), message_id=message_id, content=Content(text=payload))
            if expires is not None:
                request.expires.CopyFrom(duration(expires))
            try:
                await self._attempt(key, request, payload)
            except (TroupeError, TimeoutError) as error:
                self._history.log(f"client: {message_id} in {key} failed: {error!r}")
                if self._faulty() and self._dice.random() < 0.3:
                    return
            else:
                return
            await asyncio.sleep(self._dice.uniform(0.0, 3.0))

    async def send_once(self, key: SessionKey, message_id: str, payload: str, worker: Worker) -> None:
        """By this worker, and never again."""
        request = SendRequest(session=key.ref(), message_id=message_id, content=Content(text=payload))
        with contextlib.suppress(TroupeError, TimeoutError):
            await worker.call(lambda: worker.gateway.send(key, request), 5.0)
            self._confirmed((key, message_id))

    async def cancel(self, key: SessionKey, message_id: str) -> None:
        """Until it is answered."""
        self._verbs += 1
        verb = f"verb-{self._verbs}"
        while True:
            worker = self._worker()
            try:
                await worker.call(lambda worker=worker: worker.gateway.cancel(key, message_id, verb), 10.0)  # type: ignore[misc]
            except (TroupeError, TimeoutError):
                await asyncio.sleep(0.5)
            else:
                return

    async def delete(self, key: SessionKey) -> None:
        """A few tries, each at a worker that may be the owner."""
        for _ in range(6):
            worker = self._worker()
            try:
                await worker.call(lambda worker=worker: worker.sessions.delete(key), 15.0)  # type: ignore[misc]
            except (TroupeError, TimeoutError) as error:
                self._history.log(f"client: delete {key} failed: {error!r}")
                await asyncio.sleep(0.5)
            else:
                return

    async def ask(self, key: SessionKey, message_id: str) -> None:
        """What became of it, now and a while later."""
        worker, name = self._worker(), (key, message_id)
        try:
            status = await worker.call(lambda: worker.gateway.status(key, message_id, 20.0), 30.0)
        except (TroupeError, TimeoutError):
            return
        if status.fate in FINAL:
            self._history.answers.append((name, "", told(status)))

    async def _attempt(self, key: SessionKey, request: SendRequest, payload: str) -> None:
        worker, name = self._worker(), (key, request.message_id)
        timeout = self._dice.choice((0.3, 5.0, 60.0))
        match self._dice.randrange(3):
            case 0:
                await worker.call(lambda: worker.gateway.send(key, request), timeout)
                self._confirmed(name)
            case 1:
                try:
                    status = await worker.call(lambda: worker.gateway.send_and_wait(key, request, timeout), timeout + 5)
                except AlreadyExists:
                    self._confirmed(name)
                    self._history.answers.append((name, payload, REFUSED))
                    return
                self._confirmed(name)
                if status.fate in FINAL:
                    self._history.answers.append((name, payload, told(status)))
            case _:
                await self._converse(worker, key, request, payload, timeout)

    async def _converse(
        self, worker: Worker, key: SessionKey, request: SendRequest, payload: str, timeout: float
    ) -> None:
        name = (key, request.message_id)

        async def listen() -> None:
            async with aclosing(worker.gateway.converse(key, request, None)) as events:
                await self._listen(events, name, payload)

        await worker.call(listen, timeout)

    async def _listen(self, events: AsyncIterator[Event], name: tuple[SessionKey, str], payload: str) -> None:
        async for event in events:
            match event.WhichOneof("kind"):
                case "accepted":
                    self._confirmed(name)
                case "completed" | "failed":
                    self._history.answers.append((name, payload, told_by(event)))

    def _confirmed(self, name: tuple[SessionKey, str]) -> None:
        self._history.confirmed.add(name)

    def _worker(self) -> Worker:
        workers = self._workers()
        if not workers:
            raise NotFound("NO_WORKER", "no worker lives")
        return self._dice.choice(workers)


def told_by(event: Event) -> str:
    """The same from its last event."""
    if event.HasField("completed"):
        completed: Completed = event.completed
        return f"FATE_DONE {completed.result.text}"
    failed: Failed = event.failed
    if failed.error.reason == "MESSAGE_ID_USED":
        return REFUSED
    return f"{Fate.Name(failed.fate)} {failed.error.reason}"
