"""Dead letters over a broker and a state store: listed, sent again, dropped.

A broker shows letters in nearly the order in which they were written, and each of them to one of those who look at
the same time. Nothing here holds more than a page of them, or one batch with its bodies and the ids of what was sent.
"""

import asyncio
import bisect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from troupe.broker.addressing import SessionKey
from troupe.broker.envelope import Undecodable
from troupe.broker.order import Number
from troupe.broker.port import AGENTS, Broker, DeadLetter, HeldLetter
from troupe.chassis.clock import Clock
from troupe.chassis.errors import NotFound, TroupeError, Unavailable
from troupe.dataplane.dead_letters.filter import Filter, session_of
from troupe.dataplane.dead_letters.pace import Pace
from troupe.dataplane.dead_letters.redriving import SENT_AGAIN, Verdict, by_server, redriven, undecodable, verdict
from troupe.dataplane.dead_letters.shown import message_in, shown
from troupe.dataplane.state.port import StateStore
from troupe.v1 import dead_letter_pb2
from troupe.v1.dead_letter_pb2 import GetDeadLetterResponse, PurgeResponse, RedriveResponse
from troupe.v1.envelope_pb2 import Content, Envelope

BATCH: Final = 64
"""Letters that are sent or dropped together, so that they share the broker's confirms; a body can be 256 KiB."""
BREATH: Final = 100
"""Letters that are looked at before others have their turn."""
SHOWN_BODY: Final = 64 * 1024
"""Bytes that are shown of a body that could not be decoded."""

T = TypeVar("T")
Whole = Callable[[str, Content], Awaitable[Content]]


class DeadLetters:
    """One worker's way to all of them. `ready` waits until there are mailboxes to publish to; `whole` fetches what a
    content of a tenant's only refers to. All raise NotFound for a pool that was not declared, and Unavailable where
    broker or store cannot be used; what was done until then stays done."""

    def __init__(
        self, broker: Broker, store: StateStore, clock: Clock, *, ready: Callable[[], Awaitable[None]], whole: Whole
    ) -> None:
        self._broker, self._store, self._clock, self._ready, self._whole = broker, store, clock, ready, whole

    async def page(
        self, pool: str, wanted: Filter, size: int, after: str
    ) -> tuple[list[dead_letter_pb2.DeadLetter], str]:
        """The first `size` letters with ids beyond `after`, by id, and the id to go on after, empty at the end."""
        found: list[dead_letter_pb2.DeadLetter] = []
        async with self._chosen(pool, wanted) as chosen:
            async for held in chosen:
                letter = held.letter
                if letter.id > after and (len(found) <= size or letter.id < found[-1].letter_id):
                    bisect.insort(found, shown(letter), key=lambda one: one.letter_id)
                    del found[size + 1 :]
        return found[:size], found[size - 1].letter_id if len(found) > size else ""

    async def get(self, pool: str, letter_id: str, tenant: str) -> GetDeadLetterResponse:
        """The letter with what its message said. Raises NotFound."""
        async with self._chosen(pool, Filter(tenant, ids=frozenset([letter_id]))) as chosen:
            async for held in chosen:
                return await self._opened(held.letter)
        raise NotFound(
            "LETTER_UNKNOWN",
            f"no dead letter {letter_id} in pool {pool}; it was redriven or purged, or another call holds it now",
        )

    async def redrive(
        self, pool: str, wanted: Filter, *, limit: int, rate: float, dry_run: bool
    ) -> AsyncGenerator[RedriveResponse, None]:
        """Send letters again, at most `limit` of them (0: all) and `rate` a second (0: as fast as the broker
        confirms). A message is confirmed before its letter goes: one that is cut off in between stays, and sending it
        once more has no second effect. From its result on a message reads as on its way."""
        if not dry_run:
            await self._ready()
        pace, left, sent = Pace(rate, self._clock.monotonic()), limit or None, set[str]()
        most = BATCH if dry_run else pace.at_once(BATCH)
        async with self._batches(pool, wanted, lambda: most if left is None else min(most, left)) as batches:
            async for batch in batches:
                # What this call sent and was given up once more is left to the next one.
                cases = [one for one in _good(await _all(map(self._judged, batch))) if one.stream not in sent]
                sending = [one for one in cases if one.verdict.sends]
                if not dry_run:
                    await self._clock.sleep(pace.wait(len(sending), self._clock.monotonic()))
                    await self._carry_out(pool, cases)
                    sent.update(one.held.letter.id for one in sending)
                for one in cases:
                    if one.error is None:
                        yield one.response()
                _raise_first(one.error for one in cases)
                if left is not None:
                    left -= len(sending)

    async def purge(
        self, pool: str, wanted: Filter, *, limit: int, dry_run: bool
    ) -> AsyncGenerator[PurgeResponse, None]:
        """Drop letters, at most `limit` of them (0: all), and let the records of their messages go."""
        left = limit or None
        async with self._batches(pool, wanted, lambda: BATCH if left is None else min(BATCH, left)) as batches:
            async for batch in batches:
                purged: Sequence[TroupeError | None] = [None] * len(batch)
                if not dry_run:
                    purged = await _all(self._drop(one) for one in batch)
                for held, error in zip(batch, purged, strict=True):
                    if error is None:
                        yield PurgeResponse(letter=shown(held.letter))
                _raise_first(purged)
                if left is not None:
                    left -= len(batch)

    @asynccontextmanager
    async def _chosen(self, pool: str, wanted: Filter) -> AsyncIterator[AsyncIterator[HeldLetter]]:
        async with self._broker.dead_letters(pool) as letters, aclosing(matching(letters, wanted)) as chosen:
            yield chosen

    @asynccontextmanager
    async def _batches(
        self, pool: str, wanted: Filter, size: Callable[[], int]
    ) -> AsyncIterator[AsyncIterator[Sequence[HeldLetter]]]:
        async with self._chosen(pool, wanted) as chosen, aclosing(_batched(chosen, size)) as batches:
            yield batches

    async def _opened(self, letter: DeadLetter) -> GetDeadLetterResponse:
        try:
            envelope = message_in(letter)
        except Undecodable:
            return GetDeadLetterResponse(letter=shown(letter), body=letter.body[:SHOWN_BODY])
        content = await self._whole(SessionKey.of(envelope.target).tenant, envelope.content)
        return GetDeadLetterResponse(letter=shown(letter), content=content)

    async def _judged(self, held: HeldLetter) -> "_Case":
        try:
            envelope = message_in(held.letter)
        except Undecodable as error:
            return _Case(held, undecodable(str(error)))
        if held.letter.pool != AGENTS or by_server(held.letter):
            # Unordered work has no record; its claim keeps a copy from acting twice, as numbers do elsewhere.
            return _Case(held, SENT_AGAIN, envelope)
        key = SessionKey.of(envelope.target)
        record = await self._store.record(key, envelope.id)
        # The letter of a redriven message is there before its next end is on record.
        if record is not None and record.redriven and await self._store.waiting(key, envelope.id) is not None:
            record = None
        return _Case(held, verdict(held.letter, record.fate if record else None), envelope)

    async def _carry_out(self, pool: str, cases: Sequence["_Case"]) -> None:
        """Do as the verdicts say; a case in which that could not be done gets its error."""
        now = self._clock.now()
        sending = [one for one in cases if one.verdict.sends]
        for case in sending:
            case.again = case.envelope and redriven(case.held.letter, case.envelope, now)
        envelopes = [one.again for one in sending if one.again is not None]
        answers = await self._broker.publish_many(envelopes, pool="" if pool == AGENTS else pool)
        for case, error in zip(sending, answers, strict=True):
            case.error = error
        sent = [one for one in sending if one.error is None and not by_server(one.held.letter)]
        for case, error in zip(sent, await _all(map(self._note, sent)), strict=True):
            case.error = error and _stays(case.held.letter, error)
        going = [one for one in cases if one.verdict.removes and one.error is None]
        for case, error in zip(going, await _all(one.held.remove() for one in going), strict=True):
            case.error = error and _stays(case.held.letter, error)

    async def _note(self, case: "_Case") -> None:
        """Let the message's record say that it comes again. Not before the message is there: a note of one that never
        was would stand for ever."""
        envelope = case.again
        if envelope is not None and case.held.letter.pool == AGENTS:
            number = Number(envelope.number.stream, envelope.number.sequence)
            await self._store.redrive(SessionKey.of(envelope.target), envelope.id, number)

    async def _drop(self, held: HeldLetter) -> None:
        """The letter last: what was cut off before is purged again, where nobody would find a record without one."""
        letter = held.letter
        if letter.pool == AGENTS and (key := session_of(letter)) is not None:
            await self._store.purge(key, letter.message_id)
        await held.remove()


@dataclass(slots=True)
class _Case:
    """One letter that is to be redriven: with its message, where that can be read, and with what went wrong."""

    held: HeldLetter
    verdict: Verdict
    envelope: Envelope | None = None
    again: Envelope | None = None
    """The message as it was sent."""
    error: TroupeError | None = None

    @property
    def stream(self) -> str:
        """That in which its message came; empty where nobody can tell."""
        return self.envelope.number.stream if self.envelope else ""

    def response(self) -> RedriveResponse:
        return RedriveResponse(letter=shown(self.held.letter), outcome=self.verdict.outcome, detail=self.verdict.detail)


async def matching(letters: AsyncIterator[HeldLetter], wanted: Filter) -> AsyncGenerator[HeldLetter, None]:
    """Those letters of a broker that are wanted, until there can be no more of them."""
    seen, missing = 0, set(wanted.ids)
    async for held in letters:
        seen += 1
        if seen % BREATH == 0:
            await asyncio.sleep(0)
        if wanted.takes(held.letter):
            yield held
            missing.discard(held.letter.id)
            if wanted.ids and not missing:
                return


async def _batched(letters: AsyncIterator[T], size: Callable[[], int]) -> AsyncGenerator[Sequence[T], None]:
    """Of `size()` letters each, asked anew for each; the last may be smaller. Ends where it is 0."""
    batch: list[T] = []
    while (wanted := size()) > 0:
        async for held in letters:
            batch.append(held)
            if len(batch) >= wanted:
                break
        else:
            break
        yield batch
        batch = []
    if batch:
        yield batch


async def _all(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T | TroupeError]:
    """What each of them came to, all at once."""

    async def caught(call: Coroutine[Any, Any, T]) -> T | TroupeError:
        try:
            return await call
        except TroupeError as error:
            return error

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(caught(call)) for call in calls]
    return [task.result() for task in tasks]


def _good(results: Sequence[T | TroupeError]) -> list[T]:
    """The results, if all of them are good. Raises the first error."""
    _raise_first(results)
    return [one for one in results if not isinstance(one, TroupeError)]


def _raise_first(results: Iterable[object]) -> None:
    for one in results:
        if isinstance(one, TroupeError):
            raise one


def _stays(letter: DeadLetter, error: TroupeError) -> Unavailable:
    return Unavailable(
        "LETTER_STAYS",
        f"dead letter {letter.id} was dealt with, but may still be there ({error}); redriving it again does no harm",
    )
