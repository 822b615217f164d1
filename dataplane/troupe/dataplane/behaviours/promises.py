"""What a turn asks for from outside, on its journal: made once, found again by every attempt, waited for."""

import re
import secrets
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final, Never

import msgspec
from google.rpc import code_pb2

from troupe.chassis.clock import Clock
from troupe.chassis.errors import DataLoss, InvalidArgument, TroupeError
from troupe.dataplane import promise_tokens
from troupe.dataplane.actors.behaviour import TurnContext
from troupe.dataplane.behaviours.step_names import PROMISE, START
from troupe.dataplane.state.control import Promise
from troupe.v1 import promise_pb2
from troupe.v1.envelope_pb2 import Content

NAME: Final = re.compile(r"[A-Za-z0-9._:-]{1,63}")
"""What names of promises and reminders match as a whole."""

FRESH: Final = 6
"""Attempts whose tokens a promise gets without more. It keeps eight: what an early attempt has given out stays good."""

Schema = type | Mapping[str, Any] | None


class PromiseRejected(TroupeError):
    """Somebody settled the promise without a value; the text says why."""

    code: ClassVar[int] = code_pb2.FAILED_PRECONDITION

    def __init__(self, name: str, why: str) -> None:
        super().__init__("PROMISE_REJECTED", why or f"promise {name} was rejected without a reason")


class PromiseExpired(TroupeError):
    """Nobody settled the promise in time, or nobody can any more."""

    code: ClassVar[int] = code_pb2.DEADLINE_EXCEEDED

    def __init__(self, name: str) -> None:
        super().__init__("PROMISE_EXPIRED", f"promise {name} was not settled in time")


class TurnPromises:
    """Those of one turn's attempt."""

    def __init__(self, turn: TurnContext, clock: Clock) -> None:
        self._turn, self._clock = turn, clock
        self._held: dict[str, Promise] = {}

    def id(self, name: str) -> str:
        """Of the promise of this name: of one that the turn has, from a message that it goes on for perhaps, or is to
        make."""
        made = (promise.id for promise in self._turn.journal.promises.values() if promise.name == name)
        return next(made, f"{self._turn.message.id}/{name}")

    def found(self, promise_id: str) -> Promise | None:
        """The promise, as it stood when the attempt began; None where it has not been made."""
        return self._turn.journal.promises.get(promise_id)

    async def make(
        self,
        name: str,
        *,
        lasts: float | None = None,
        json_schema: bytes = b"",
        approvers: Sequence[str] = (),
        token: str = "",
    ) -> Promise:
        """The promise of this name, open from now on for `lasts` seconds, None: for ever, unless it was made before.
        Whoever has `token` may settle it."""
        now = self._clock.now()
        promise = Promise(
            self.id(name),
            name,
            self._turn.message.id,
            created=now,
            expires=0.0 if lasts is None else now + lasts,
            tokens=(promise_tokens.hashed(token),) if token else (),
            approvers=tuple(approvers),
            json_schema=json_schema,
        )
        started = sum(step.startswith(START) for step in self._turn.journal.kept)
        await self._turn.journal.keep({f"{PROMISE}{name}": b"%d" % started}, starts=True, promises=[promise])
        return self.found(promise.id) or promise

    def hold(self, promise: Promise, token: str) -> None:
        """The promise does not know this token yet: it gets it with the first call that carries it."""
        self._held[token] = promise

    def carried(self, text: str) -> list[Promise]:
        """Promises of held tokens that stand in the text, for the journal write that lets them out."""
        out = [token for token in self._held if token in text]
        return [replace(self._held.pop(token), tokens=(promise_tokens.hashed(token),)) for token in out]

    def token(self, promise_id: str) -> str:
        """A new one; nobody knows of it yet."""
        return promise_tokens.fresh(self._turn.key, promise_id, secrets.token_bytes(promise_tokens.SECRET))

    async def wait(self, promise_ids: Collection[str]) -> Never:
        """End the attempt until one of them is settled."""
        await self._turn.suspend(promise_ids)


class AwaitedValue:
    """A value that a turn waits for, as its actor's code has it: `value = await promise`."""

    def __init__(self, promises: TurnPromises, promise: Promise, schema: Schema, token: str) -> None:
        self.name = promise.name
        self.id = promise.id
        """Names it within the session."""
        self.token = token
        """Whoever has it may settle the promise. A secret, and another one in each attempt, all of them good: beyond
        the first few attempts once a call has carried it."""
        self._promises, self._promise, self._schema = promises, promise, schema

    def __await__(self) -> Generator[Any, Any, Any]:
        """The value: of the schema's type, or what its JSON says for a JSON Schema, or a Content where there is none.
        Raises PromiseRejected and PromiseExpired. While it is open the turn waits, and nothing of it is in memory."""
        return self._settled().__await__()

    async def _settled(self) -> Any:
        promise = self._promise
        if promise.state == promise_pb2.PROMISE_STATE_OPEN:
            await self._promises.wait([promise.id])
        if promise.state == promise_pb2.PROMISE_STATE_REJECTED:
            raise PromiseRejected(promise.name, promise.value.decode())
        if promise.state != promise_pb2.PROMISE_STATE_RESOLVED:
            raise PromiseExpired(promise.name)
        return _value(promise, self._schema)


def json_schema(schema: Schema, name: str) -> bytes:
    """The JSON Schema that a value is checked with. Raises InvalidArgument where there is none."""
    if schema is None:
        return b""
    try:
        return msgspec.json.encode(schema if isinstance(schema, Mapping) else msgspec.json.schema(schema))
    except (TypeError, ValueError) as error:
        raise InvalidArgument("BAD_SCHEMA", f"promise {name}: its schema has no JSON form ({error})") from error


def _value(promise: Promise, schema: Schema) -> Any:
    content = Content.FromString(promise.value)
    if schema is None:
        return content
    kind = Any if isinstance(schema, Mapping) else schema
    try:
        if content.WhichOneof("body") == "text":
            return msgspec.convert(content.text, kind)
        return _decoded(content.data.value, kind)
    except msgspec.MsgspecError as error:
        raise DataLoss("BAD_VALUE", f"promise {promise.name}: its value is not of the schema ({error})") from error


def _decoded(value: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.ValidationError:
        # To JSON Schema 1.0 is an integer. What else is read here and not above the schema has refused.
        return msgspec.json.decode(value, type=kind, strict=False)
