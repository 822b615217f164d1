"""One turn's calls on its journal, its promises and its events: what `troupe.dataplane.tools.calls` needs."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Never

import msgspec

from troupe.broker.addressing import SessionKey
from troupe.chassis.clock import Clock
from troupe.chassis.wire import duration
from troupe.dataplane.actors.behaviour import TurnContext
from troupe.dataplane.behaviours.promises import TurnPromises
from troupe.dataplane.behaviours.step_names import KEY, RESULT, START
from troupe.dataplane.tools.call import ToolCall, ToolMessage
from troupe.dataplane.tools.errors import UnknownOutcome
from troupe.dataplane.tools.executor import ToolOutcome, failure
from troupe.dataplane.tools.tool import keyed
from troupe.v1 import promise_pb2, turn_pb2
from troupe.v1.envelope_pb2 import Content

ASKED: Final = "unknown-outcome"
"""Name, up to the call's id, of the promise of a call's result."""
TAKING_BACK: Final = "compensation/"
"""What the ids of compensating calls begin with, before that of the call that they take back."""

_TOKEN = re.compile(r"(tp_[A-Za-z0-9_-]+)\.[0-9a-f]{32}")
_encode = msgspec.msgpack.Encoder().encode
_result = msgspec.msgpack.Decoder(ToolMessage).decode


class JournaledCalls:
    """See `troupe.dataplane.tools.calls.CallPorts`. Journal steps are START, RESULT and KEY."""

    def __init__(self, turn: TurnContext, promises: TurnPromises, clock: Clock, *, asks: bool) -> None:
        """`asks`: a person is asked what a call of unknown outcome came to."""
        self._turn, self._promises, self._clock, self._asks = turn, promises, clock, asks
        self._asked: list[str] = []

    def journaled_start(self, call_id: str) -> bool:
        return f"{START}{call_id}" in self._turn.journal.kept

    def journaled_result(self, call_id: str) -> ToolMessage | None:
        kept = self._turn.journal.kept.get(f"{RESULT}{call_id}")
        return None if kept is None else _result(kept)

    async def journal_result(self, result: ToolMessage, seconds: float) -> None:
        ended = self._clock.monotonic()
        self._turn.ledger.add(turn_pb2.LEDGER_CAUSE_TOOL, ended - seconds, ended)
        await self._turn.journal.keep({f"{RESULT}{result.call_id}": _encode(result)}, starts=False)

    @contextmanager
    def calling(self, call: ToolCall) -> Iterator[None]:
        turn = self._turn
        before = turn.journal.kept.get(f"{KEY}{call.call_id}")
        key = before.decode() if before else call_key(turn.key, turn.message.id, call.call_id)
        with turn.journal.calling(), turn.events.text_waits(), keyed(key):
            yield

    async def ask(self, call: ToolCall, error: UnknownOutcome) -> ToolOutcome | None:
        if not self._asks:
            raise error
        name = f"{ASKED}/{call.call_id}"
        promise = self._promises.found(self._promises.id(name)) or await self._promises.make(name)
        match promise.state:
            case promise_pb2.PROMISE_STATE_OPEN:
                self._asked.append(promise.id)
                return None
            case promise_pb2.PROMISE_STATE_RESOLVED:
                return _said(Content.FromString(promise.value))
            case promise_pb2.PROMISE_STATE_REJECTED:
                return failure("TOOL_FAILED", promise.value.decode() or "it failed")
            case _:
                raise error

    async def wait(self) -> Never:
        await self._promises.wait(self._asked)

    def tool_started(self, call: ToolCall) -> None:
        self._turn.events.tool_started(
            turn_pb2.ToolCallStarted(
                call_id=call.call_id, tool=call.tool, arguments=_compact(without_tokens(call.arguments))
            )
        )

    def tool_finished(self, call: ToolCall, result: ToolMessage, replayed: bool, seconds: float) -> None:
        self._turn.events.tool_finished(
            turn_pb2.ToolCallFinished(
                call_id=call.call_id,
                tool=call.tool,
                result=result.content,
                failed=result.failed,
                replayed=replayed,
                duration=duration(seconds),
            )
        )


def call_key(key: SessionKey, message_id: str, call_id: str) -> str:
    """By which a tool knows the call, however often it is made."""
    return f"{key.path}/{message_id}/{call_id}"


def without_tokens(text: str) -> str:
    """The text without the secret of any promise's token in it: as it may be kept and shown, the same in each
    attempt."""
    return _TOKEN.sub(r"\1", text)


def _said(content: Content) -> ToolOutcome:
    """A person's word as the tool would have said it: a text, or JSON."""
    if content.WhichOneof("body") == "text":
        return ToolOutcome(content.text)
    try:
        value = msgspec.json.decode(content.data.value)
    except msgspec.DecodeError:
        return ToolOutcome(content.data.value.decode(errors="replace"))
    return ToolOutcome(value) if isinstance(value, str) else ToolOutcome(content.data.value.decode(), json=True)


def _compact(arguments: str) -> str:
    """The same JSON on one line; what is no JSON stays as it was written."""
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False)
    except ValueError:
        return arguments
