"""Faults on demand: what can go wrong at a model server, and which request it happens to."""

from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from random import Random
from typing import Annotated

from msgspec import Meta, Struct

from troupe.llm_sim.errors import ApiError


class FaultKind(StrEnum):
    """What the client sees."""

    RATE_LIMIT = "429"  # Retry-After and OpenAI's error object
    SERVER_ERROR = "500"
    OVERLOADED = "503"
    CUT = "cut"  # the connection is aborted after so many tokens
    GARBAGE = "garbage"  # bytes that are neither JSON nor server-sent events
    HALF = "half"  # ends properly as HTTP, without finish_reason and [DONE], or in the middle of the JSON
    SILENCE = "silence"  # not even headers, until the client leaves
    STALL = "stall"  # nothing more after so many tokens, until the client leaves


class Fault(Struct, frozen=True, forbid_unknown_fields=True):
    """One fault. `after` is in tokens, for cut, garbage, half and stall; `retry_after` is in seconds, for 429 (1 where
    not given) and 503 (no header where not given)."""

    kind: FaultKind
    after: Annotated[int, Meta(ge=0)] = 3
    retry_after: Annotated[float, Meta(ge=0, le=3600)] | None = None

    def error(self) -> ApiError | None:
        """The answer of a fault that is one; None for those that happen to the connection."""
        match self.kind:
            case FaultKind.RATE_LIMIT:
                after = 1.0 if self.retry_after is None else self.retry_after
                message = f"Rate limit reached, as ordered. Please try again in {after:g}s."
                return ApiError(429, message, type="requests", code="rate_limit_exceeded", retry_after=after)
            case FaultKind.SERVER_ERROR:
                message = "The server had an error while processing your request, as ordered."
                return ApiError(500, message, type="server_error")
            case FaultKind.OVERLOADED:
                message = "The engine is currently overloaded, as ordered. Please try again later."
                return ApiError(503, message, type="server_error", code="overloaded", retry_after=self.retry_after)
            case _:
                return None


class FaultOrder(Fault, frozen=True, forbid_unknown_fields=True):
    """The same fault for the next `count` requests."""

    count: Annotated[int, Meta(ge=1, le=1_000_000)] = 1


class FaultPlan:
    """Orders in turn first; then chance: each request fails with `probability`, by one of `kinds`."""

    LONGEST = 1000
    """How many orders can wait."""

    def __init__(self, probability: float = 0.0, kinds: Sequence[FaultKind] = ()) -> None:
        self._probability = probability
        self._kinds = kinds
        self._orders: deque[FaultOrder] = deque()

    @property
    def orders(self) -> list[FaultOrder]:
        """What still waits, next first."""
        return list(self._orders)

    def order(self, order: FaultOrder) -> None:
        """Add to the end. Raises ApiError 400 when 1000 orders wait already."""
        if len(self._orders) >= self.LONGEST:
            raise ApiError(400, f"{self.LONGEST} orders wait already; DELETE /sim/faults clears them.")
        self._orders.append(order)

    def clear(self) -> None:
        """Forget all orders; chance stays."""
        self._orders.clear()

    def take(self, rng: Random) -> Fault | None:
        """The fault of the next request, if any."""
        if self._orders:
            order = self._orders.popleft()
            if order.count > 1:
                left = FaultOrder(order.kind, order.after, order.retry_after, order.count - 1)
                self._orders.appendleft(left)
            return order
        if self._kinds and rng.random() < self._probability:
            return Fault(rng.choice(self._kinds))
        return None
