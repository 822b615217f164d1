"""Clients: they send, wait, send again with the same id, cancel, delete, and tell the history what they were told."""

import asyncio
import contextlib
import functools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing

from fault.simulation.history import History
from fault.simulation.store import told
from fault.simulation.worker import Worker

from troupe.broker.addressing import SessionKey
from troupe.chassis.errors import AlreadyExists, NotFound, TroupeError
from troupe.chassis.wire import duration, timestamp
from troupe.dataplane.standing import FINAL
from troupe.dataplane.state.control import Control, Settlement
from troupe.v1 import agent_pb2
from troupe.v1.agent_pb2 import VERB_CANCEL, VERB_KILL, VERB_PAUSE, VERB_RESUME, SendRequest
from troupe.v1.envelope_pb2 import Content
from troupe.v1.promise_pb2 import PROMISE_STATE_REJECTED, PROMISE_STATE_RESOLVED
from troupe.v1.turn_pb2 import Completed, Event, Failed, Fate

STOPS = ((VERB_CANCEL,), (VERB_CANCEL,), (VERB_KILL,), (VERB_CANCEL, VERB_KILL), (VERB_KILL, VERB_CANCEL))
REFUSED = "refused: other payload"


class Clients:
    """All of them. `workers` are those that they may reach now."""

    def __init__(
        self, workers: Callable[[], Sequence[Worker]], history: History, dice: random.Random, faulty: Callable[[], bool]
    ) -> None:
        self._workers, self._history, self._dice, self._faulty = workers, history, dice, faulty
        self._names = 0

    async def send(self, key: SessionKey, message_id: str, payload: str, **options: float | bool) -> None:
        """Send until it is confirmed, or given up. `options`: seconds until it `expires`, or after which it is `due`,
        and whether it is `rejected` where its session is busy."""
        while True:
            request = SendRequest(session=key.ref(), message_id=message_id, content=Content(text=payload))
            if "expires" in options:
                request.expires.CopyFrom(duration(options["expires"]))
            if "due" in options:
                request.deliver_at.CopyFrom(timestamp(options["due"]))
            if options.get("rejected"):
                request.on_busy = agent_pb2.ON_BUSY_REJECT
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
        """Stop it, by one verb or by two."""
        for verb in self._dice.choice(STOPS):
            attempt = self._dice.choice((None, None, None, 0, 1))
            await self._control(key, Control(verb, self._name("verb"), message_id, attempt))

    async def pause(self, key: SessionKey, message_id: str) -> None:
        """Pause it and let it go on, now and again: the RESUME may come before the PAUSE has."""
        for _ in range(self._dice.choice((1, 1, 3))):
            pause = Control(VERB_PAUSE, self._name("verb"), message_id)
            resume = Control(VERB_RESUME, self._name("verb"), message_id, lifts=self._dice.choice((pause.verb_id, "")))
            async with asyncio.TaskGroup() as tasks:
                pausing = tasks.create_task(self._control(key, pause))
                await asyncio.sleep(self._dice.choice((0.0, 0.01, 1.0, 20.0)))
                if resume.lifts == "":
                    # It lifts what is there: what comes later would hold the message for ever.
                    await asyncio.wait([pausing])
                tasks.create_task(self._control(key, resume))

    async def resume(self, key: SessionKey, message_id: str) -> None:
        """Whatever holds it."""
        await self._control(key, Control(VERB_RESUME, self._name("verb"), message_id))

    async def restart(self, key: SessionKey, message_id: str) -> None:
        """Let another message go on for it from some step: what is not at rest is tried again, paused perhaps."""
        for _ in range(4):
            verb_id, step = self._name("verb"), self._dice.choice((0, 1, 1, 2, 9))
            self._history.from_step[verb_id] = step
            await self._until_answered(
                functools.partial(Worker.restart, key=key, message_id=message_id, verb_id=verb_id, step=step)
            )
            if self._history.verbs[verb_id] != agent_pb2.VERB_ANSWER_NOT_AT_REST:
                break
            if self._dice.random() < 0.5:
                await self._control(key, Control(VERB_PAUSE, self._name("verb"), message_id))
            await asyncio.sleep(self._dice.choice((0.1, 3.0)))
        await self.resume(key, message_id)

    async def settle(self, key: SessionKey, promise_id: str) -> None:
        """Settle a promise, as several that do not know of each other."""
        for _ in range(self._dice.choice((1, 1, 2))):
            state = self._dice.choice((PROMISE_STATE_RESOLVED, PROMISE_STATE_RESOLVED, PROMISE_STATE_REJECTED))
            name = self._name("settlement")
            settlement = Settlement(promise_id, name, state, name.encode(), "")
            await self._until_answered(functools.partial(Worker.settle, key=key, settlement=settlement))

    async def _control(self, key: SessionKey, control: Control) -> None:
        await self._until_answered(functools.partial(Worker.control, key=key, control=control))

    async def _until_answered(self, ask: Callable[[Worker], Awaitable[object]]) -> None:
        """By any worker, the same again and again."""
        while True:
            worker = self._worker()
            try:
                await worker.call(lambda worker=worker: ask(worker), 10.0)  # type: ignore[misc]
            except (TroupeError, TimeoutError):
                await asyncio.sleep(0.5)
            except KeyError:
                if not self._history.counts["restored"]:
                    raise
                return  # a promise that the backup does not know
            else:
                if self._dice.random() < 0.9:
                    return

    def _name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}-{self._names}"

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
        # What is not to wait needs somebody who is told so.
        match 1 + self._dice.randrange(2) if request.on_busy == agent_pb2.ON_BUSY_REJECT else self._dice.randrange(3):
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
