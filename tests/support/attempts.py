"""Turns of behaviours without a runtime: a journal and promises that outlive attempts, and what each attempt showed."""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Never, cast

from support.fake_clock import FakeClock

from troupe.broker.addressing import SessionKey
from troupe.chassis.ledger import Ledger
from troupe.chassis.wire import timestamp
from troupe.dataplane.actors.behaviour import TurnContext
from troupe.dataplane.state.control import Promise
from troupe.v1 import promise_pb2
from troupe.v1.envelope_pb2 import Content, Data, Envelope
from troupe.v1.turn_pb2 import ToolCallFinished, ToolCallStarted

KEY = SessionKey("default", "default", "till", "s")
SENT = 1_000.0


class Suspended(Exception):
    """The attempt ended in a wait for these promises."""

    def __init__(self, promise_ids: Collection[str]) -> None:
        super().__init__(", ".join(sorted(promise_ids)))
        self.promise_ids = set(promise_ids)


class Shown(list[str]):
    """What an attempt shows, in words."""

    def text(self, text: str) -> None:
        self.append(text)

    def text_waits(self) -> AbstractContextManager[None]:
        return nullcontext()

    def tool_started(self, call: ToolCallStarted) -> None:
        self.append(f"→ {call.call_id} {call.tool} {call.arguments}")

    def tool_finished(self, call: ToolCallFinished) -> None:
        ended = "failed" if call.failed else "replayed" if call.replayed else "ended"
        self.append(f"← {call.call_id} {ended} {call.result}")


@dataclass
class Attempts:
    """One message's turn: each `begun` is its next attempt. `refuses` is what the runtime says to a journal write,
    by its index over all attempts."""

    text: str = "hello"
    kept: dict[str, bytes] = field(default_factory=dict)
    promises: dict[str, Promise] = field(default_factory=dict)
    writes: list[tuple[list[str], bool, bool]] = field(default_factory=list)
    """Steps, whether something starts, whether it compensates."""
    refuses: dict[int, Exception] = field(default_factory=dict)
    shown: Shown = field(default_factory=Shown)
    """By the newest attempt."""
    clock: FakeClock = field(default_factory=FakeClock)
    attempt: int = -1
    _calls: int = 0
    _quiet: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._quiet.set()

    async def keep(
        self,
        steps: Mapping[str, bytes],
        *,
        starts: bool,
        compensates: bool = False,
        promises: Sequence[Promise] = (),
    ) -> None:
        await asyncio.sleep(0)
        self.writes.append(([*steps], starts, compensates))
        if (error := self.refuses.get(len(self.writes) - 1)) is not None:
            raise error
        self.kept = {**steps, **self.kept}
        for promise in promises:
            known = self.promises.setdefault(promise.id, replace(promise, tokens=()))
            self.promises[promise.id] = replace(known, tokens=(known.tokens + promise.tokens)[-8:])

    @contextmanager
    def calling(self) -> Iterator[None]:
        self._calls += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._quiet.set()

    def begun(self, state: bytes = b"", **changes: Any) -> TurnContext:
        """The next attempt, on the journal as it is."""
        self.attempt += 1
        self.shown = Shown()

        awaits: set[str] = set()

        async def suspend(promise_ids: Collection[str]) -> Never:
            awaits.update(promise_ids)
            await self._quiet.wait()
            await asyncio.sleep(0.001)
            raise Suspended(awaits)

        envelope = Envelope(id="m1", content=Content(text=self.text), first_sent=timestamp(SENT))
        context = TurnContext(
            key=KEY,
            message=envelope,
            attempt=self.attempt,
            state=state,
            snapshot=b"",
            history=(),
            journal=self,
            events=cast(Any, self.shown),
            ledger=Ledger(),
            suspend=suspend,
        )
        return replace(context, **changes)

    def settle(self, promise_id: str, value: str | None, why: str = "", *, json: bool = False) -> None:
        """Resolve the promise with a text, or with JSON, or reject it."""
        content = Content(data=Data(content_type="application/json", value=(value or "").encode()))
        state = promise_pb2.PROMISE_STATE_REJECTED if value is None else promise_pb2.PROMISE_STATE_RESOLVED
        content = content if json else Content(text=value or "")
        said = why.encode() if value is None else content.SerializeToString()
        self.promises[promise_id] = replace(self.promises[promise_id], state=state, value=said)

    def expire(self, promise_id: str) -> None:
        self.promises[promise_id] = replace(self.promises[promise_id], state=promise_pb2.PROMISE_STATE_EXPIRED)
