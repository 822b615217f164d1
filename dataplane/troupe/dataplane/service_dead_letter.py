"""DeadLetterService: requests checked and bounded here, carried out by the dead letters."""

import math
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import grpc

from troupe.broker.addressing import MAX_SESSION, NAME, is_session
from troupe.broker.port import AGENTS
from troupe.chassis.errors import InvalidArgument, Violation
from troupe.dataplane import access
from troupe.dataplane.dead_letters.filter import Filter
from troupe.dataplane.dead_letters.letters import DeadLetters
from troupe.dataplane.dead_letters.shown import is_moment
from troupe.v1 import dead_letter_pb2_grpc as served
from troupe.v1.dead_letter_pb2 import (
    DESCRIPTOR,
    DeadLetterFilter,
    GetDeadLetterRequest,
    GetDeadLetterResponse,
    ListDeadLettersRequest,
    ListDeadLettersResponse,
    PurgeRequest,
    PurgeResponse,
    RedriveRequest,
    RedriveResponse,
)

SERVICE = DESCRIPTOR.services_by_name["DeadLetterService"].full_name
DEFAULT_PAGE, LARGEST_PAGE = 100, 1000
MAX_IDS = 1000
MAX_RATE = 100_000.0

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Context = grpc.aio.ServicerContext[Any, Any]


class DeadLetterDesk(served.DeadLetterServiceServicer):
    """The service of one worker."""

    def __init__(self, letters: DeadLetters) -> None:
        self._letters = letters

    async def ListDeadLetters(  # noqa: N802
        self, request: ListDeadLettersRequest, context: Context
    ) -> ListDeadLettersResponse:
        _check(_wrong_list(request))
        letters, token = await self._letters.page(
            request.pool or AGENTS,
            Filter.of(request.filter, access.tenant()),
            request.page_size or DEFAULT_PAGE,
            request.page_token,
        )
        return ListDeadLettersResponse(letters=letters, next_page_token=token)

    async def GetDeadLetter(  # noqa: N802
        self, request: GetDeadLetterRequest, context: Context
    ) -> GetDeadLetterResponse:
        _check([*_wrong_pool(request.pool), *_wrong_id("letter_id", request.letter_id)])
        return await self._letters.get(request.pool or AGENTS, request.letter_id, access.tenant())

    async def Redrive(self, request: RedriveRequest, context: Context) -> AsyncIterator[RedriveResponse]:  # noqa: N802
        _check(_wrong_redrive(request))
        results = self._letters.redrive(
            request.pool or AGENTS,
            Filter.of(request.filter, access.tenant()),
            limit=request.limit,
            rate=request.rate,
            dry_run=request.dry_run,
        )
        async with aclosing(results):
            async for result in results:
                yield result

    async def Purge(self, request: PurgeRequest, context: Context) -> AsyncIterator[PurgeResponse]:  # noqa: N802
        _check(_wrong_purge(request))
        results = self._letters.purge(
            request.pool or AGENTS,
            Filter.of(request.filter, access.tenant()),
            limit=request.limit,
            dry_run=request.dry_run,
        )
        async with aclosing(results):
            async for result in results:
                yield result


def _check(wrong: "list[Violation] | Iterator[Violation]") -> None:
    violations = list(wrong)
    if violations:
        first = violations[0]
        raise InvalidArgument("INVALID_REQUEST", f"{first.field} {first.description}", violations=violations)


def _wrong_list(request: ListDeadLettersRequest) -> Iterator[Violation]:
    yield from _wrong_pool(request.pool)
    yield from _wrong_filter(request.filter)
    if request.page_size > LARGEST_PAGE:
        yield Violation("page_size", f"must be 1 to {LARGEST_PAGE}")
    if request.page_token and not _ID.fullmatch(request.page_token):
        yield Violation("page_token", "is not one that ListDeadLetters gave out")


def _wrong_redrive(request: RedriveRequest) -> Iterator[Violation]:
    yield from _wrong_pool(request.pool)
    yield from _wrong_filter(request.filter)
    if not (math.isfinite(request.rate) and 0 <= request.rate <= MAX_RATE):
        yield Violation("rate", f"must lie between 0 and {MAX_RATE:.0f} letters a second")


def _wrong_purge(request: PurgeRequest) -> Iterator[Violation]:
    yield from _wrong_pool(request.pool)
    yield from _wrong_filter(request.filter)
    narrows = Filter.of(request.filter, access.tenant()).narrows
    if not narrows and not request.all:
        yield Violation("filter", "must name something; to purge every letter of the pool, set `all`")
    if narrows and request.all:
        yield Violation("all", "contradicts the filter, which names some; leave one of them out")


def _wrong_pool(pool: str) -> Iterator[Violation]:
    if pool and not NAME.fullmatch(pool):
        yield Violation("pool", f"must match {NAME.pattern}")


def _wrong_id(field: str, letter_id: str) -> Iterator[Violation]:
    if not _ID.fullmatch(letter_id):
        yield Violation(field, "must be the id of a letter, a UUID in lower case")


def _wrong_filter(asked: DeadLetterFilter) -> Iterator[Violation]:
    if asked.session.tenant:
        raise access.tenant_set("filter.session.tenant")
    if len(asked.letter_ids) > MAX_IDS:
        yield Violation("filter.letter_ids", f"must be at most {MAX_IDS}")
    for place, letter_id in enumerate(asked.letter_ids[:MAX_IDS]):
        yield from _wrong_id(f"filter.letter_ids[{place}]", letter_id)
    for part in ("namespace", "agent"):
        if (value := getattr(asked.session, part)) and not NAME.fullmatch(value):
            yield Violation(f"filter.session.{part}", f"must match {NAME.pattern}")
    if asked.session.session and not is_session(asked.session.session):
        yield Violation(
            "filter.session.session", f"must be at most {MAX_SESSION} bytes without `/` and control characters"
        )
    for field in ("since", "before"):
        if asked.HasField(field) and not is_moment(getattr(asked, field)):
            yield Violation(f"filter.{field}", "must be a time from year 1 to year 9999")
