"""The calls of an actor's turn: each named by a key, started once, and on replay found again under it."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from troupe.broker.envelope import MAX_ID
from troupe.chassis.clock import Clock
from troupe.chassis.errors import InvalidArgument
from troupe.dataplane.actors.behaviour import TurnContext
from troupe.dataplane.behaviours.calls import TAKING_BACK, JournaledCalls, without_tokens
from troupe.dataplane.behaviours.promises import TurnPromises
from troupe.dataplane.behaviours.step_names import START
from troupe.dataplane.tools.call import ToolCall, ToolMessage, call_digest
from troupe.dataplane.tools.calls import Calls
from troupe.dataplane.tools.errors import NonDeterministic, ToolFailed, UnknownOutcome
from troupe.dataplane.tools.executor import ToolExecutor, ToolOutcome
from troupe.dataplane.tools.tool import Tool

HASH_DIGITS: Final = 16
"""Hexadecimal digits of the arguments' hash in a key that the caller did not choose."""
MAX_CALLS: Final = 1_000
"""Calls that one turn may make: its journal is read whole with each attempt."""


class _Start(msgspec.Struct, frozen=True, array_like=True):
    """What is journaled before a call."""

    ordinal: int
    """Calls of the turn that were started before it."""
    tool: str
    digest: str
    arguments: str


_encode = msgspec.msgpack.Encoder().encode
_start = msgspec.msgpack.Decoder(_Start).decode
_json = msgspec.json.Encoder(order="sorted").encode


class ActorCalls:
    """Those of one attempt."""

    def __init__(
        self,
        turn: TurnContext,
        promises: TurnPromises,
        tools: Mapping[str, Tool],
        executor: ToolExecutor,
        clock: Clock,
        *,
        asks: bool,
    ) -> None:
        self._journal, self._promises = turn.journal, promises
        self._ports = JournaledCalls(turn, promises, clock, asks=asks)
        self._calls = Calls(tools, turn.message.id, self._ports, executor)
        self._starts = started(turn.journal.kept)
        self._keys: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._running = 0
        self._quiet = asyncio.Event()

    async def call(self, tool: str, arguments: Mapping[str, Any], key: str | None) -> Any:
        """What the tool returned: text, or what its JSON means. Raises ToolFailed, UnknownOutcome, NonDeterministic,
        InvalidArgument for arguments without a JSON form and for keys, and what the journal raises."""
        try:
            given = _json(arguments).decode()
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidArgument("BAD_ARGUMENTS", f"tool {tool}: its arguments have no JSON form ({error})") from error
        kept = without_tokens(given)
        digest = call_digest(ToolCall("", tool, kept))
        call = ToolCall(self._key(tool, digest, key), tool, given)
        self._check_replay(call, digest)
        self._running += 1
        try:
            result = self._calls.replayed(call) or await self._made(call, _Start(len(self._starts), tool, digest, kept))
        finally:
            self._running -= 1
            self._quiet.set()
        if result is None:
            await self._ports.wait()
        if result.failed:
            raise ToolFailed(tool, result.content)
        return msgspec.json.decode(result.content) if result.json else result.content

    async def quiet(self) -> None:
        """Wait until none runs."""
        while self._running:
            self._quiet.clear()
            await self._quiet.wait()
            await asyncio.sleep(0)  # for another one that comes after it

    async def _made(self, call: ToolCall, start: _Start) -> ToolMessage | None:
        """The result; None where a person is asked for it."""
        judged = self._calls.judge(call)
        if isinstance(judged, ToolOutcome):
            # Not journaled: a revision in which the call is possible may carry it out.
            raise ToolFailed(call.tool, judged.content)
        doubt = self._calls.doubt(call, judged)
        if doubt is None:
            carried = self._promises.carried(call.arguments)
            if carried or call.call_id not in self._starts:
                start = self._starts.setdefault(call.call_id, start)
                await self._journal.keep({f"{START}{call.call_id}": _encode(start)}, starts=True, promises=carried)
            match await self._calls.run(call, judged):
                case ToolMessage() as result:
                    return result
                case UnknownOutcome() as doubt:
                    pass
        said = await self._ports.ask(call, doubt)
        return None if said is None else await self._calls.settle(call, said)

    def _key(self, tool: str, digest: str, key: str | None) -> str:
        if key is None:
            name = f"{tool}/{digest[:HASH_DIGITS]}"
            self._counts[name] += 1
            key = f"{name}/{self._counts[name]}"
        if not 0 < len(key.encode()) <= MAX_ID or key.startswith(TAKING_BACK):
            why = f"a call's key has 1 to {MAX_ID} bytes and does not begin with {TAKING_BACK}"
            raise InvalidArgument("BAD_KEY", f"tool {tool}: {why}")
        if key in self._keys:
            raise InvalidArgument("KEY_USED", f"tool {tool}: the turn has a call with the key {key!r} already")
        if len(self._keys) == MAX_CALLS:
            raise InvalidArgument("TOO_MANY_CALLS", f"a turn makes at most {MAX_CALLS} calls; send messages for more")
        self._keys.add(key)
        return key

    def _check_replay(self, call: ToolCall, digest: str) -> None:
        before = self._starts.get(call.call_id)
        if before is None:
            return
        if before.tool != call.tool:
            raise NonDeterministic(f"call {call.call_id} is {call.tool}, and was {before.tool}")
        if before.digest != digest:
            raise NonDeterministic(f"call {call.call_id} has other arguments than before")


def started(kept: Mapping[str, bytes]) -> dict[str, _Start]:
    """The calls whose start is journaled, by key, in the order in which they were started."""
    starts = {
        step.removeprefix(START): _start(start)
        for step, start in kept.items()
        if step.startswith(START) and not step.startswith(f"{START}{TAKING_BACK}")
    }
    return dict(sorted(starts.items(), key=lambda item: item[1].ordinal))


def newest_first(kept: Mapping[str, bytes]) -> Iterator[ToolCall]:
    """The calls that were started, as they were journaled."""
    for key, start in reversed(started(kept).items()):
        yield ToolCall(key, start.tool, start.arguments)
