"""The model server itself, without HTTP: takes requests in turn and gives out tokens at their time."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

from troupe.chassis.clock import Clock
from troupe.llm_sim import distributions
from troupe.llm_sim.completion import Completion, FinishReason, Piece, complete
from troupe.llm_sim.distributions import Distribution
from troupe.llm_sim.encoding import Usage
from troupe.llm_sim.errors import ApiError
from troupe.llm_sim.metrics import Metrics, ModelMetrics
from troupe.llm_sim.prefix_cache import PrefixCache
from troupe.llm_sim.prompt import continued, prompt
from troupe.llm_sim.protocol import ChatRequest
from troupe.llm_sim.rules import reply
from troupe.llm_sim.script import Script
from troupe.llm_sim.settings import LlmSimSettings
from troupe.llm_sim.slots import Slots
from troupe.llm_sim.tokens import tokenize


class Engine:
    """Answers depend on the seed and the request alone. Times are drawn in the order in which requests get a slot, so
    that equal requests do not all take equally long."""

    def __init__(self, settings: LlmSimSettings, clock: Clock, metrics: Metrics) -> None:
        self._seed = settings.seed
        self._ttft = distributions.parse(settings.ttft)
        self._per_token = distributions.parse(settings.per_token)
        self._times = Random(f"times {settings.seed}")
        self._cache = PrefixCache(settings.cache_blocks)
        self._slots = Slots(settings.max_concurrency, settings.max_waiting)
        self._meters = {model: metrics.of(model) for model in settings.models}
        self._clock = clock

    @property
    def models(self) -> Sequence[str]:
        """The names that requests may ask for."""
        return list(self._meters)

    @asynccontextmanager
    async def generating(self, request: ChatRequest) -> AsyncIterator["Generation"]:
        """Wait for a slot, hold it, and give what is to be sent. Raises ApiError 404 for an unknown model and
        503 when too many wait. Leaving before the end, by cancellation or otherwise, counts as aborted."""
        meter = self._meter(request.model)
        arrived = self._clock.monotonic()
        read = prompt(request)
        tokens = tokenize(read)
        answer = reply(request, Random(f"{self._seed} {request.seed} {read}"))
        completion = complete(answer, request.limit, request.stops)
        async with self._slots.taken(meter):
            cached = self._cache.cached(tokens)
            self._cache.fill(tokens)
            meter.queue_time.observe(self._clock.monotonic() - arrived)
            meter.prompt_tokens.inc(len(tokens))
            meter.prefix_cache_queries.inc(len(tokens))
            meter.prefix_cache_hits.inc(cached)
            generation = Generation(
                completion=completion,
                usage=Usage(len(tokens), cached, len(completion.pieces)),
                pace=self._pace(request.sim or Script()),
                meter=meter,
                clock=self._clock,
                arrived=arrived,
            )
            try:
                yield generation
            finally:
                meter.finished[_FINISHED[completion.finish_reason] if generation.whole else "abort"].inc()
            self._cache.fill(tokens + tokenize(continued(completion)))

    def require(self, model: str) -> None:
        """Raises ApiError 404 for a model that there is not."""
        self._meter(model)

    def _pace(self, script: Script) -> "Pace":
        return Pace(script.first_token(self._ttft), script.next_token(self._per_token), self._times)

    def _meter(self, model: str) -> ModelMetrics:
        try:
            return self._meters[model]
        except KeyError:
            known = ", ".join(self._meters)
            raise ApiError(
                404, f"The model '{model}' does not exist; there is: {known}.", code="model_not_found"
            ) from None


_FINISHED = {FinishReason.STOP: "stop", FinishReason.TOOL_CALLS: "stop", FinishReason.LENGTH: "length"}


@dataclass(frozen=True, slots=True)
class Pace:
    """The times between tokens, in seconds."""

    first: Distribution
    later: Distribution
    rng: Random


@dataclass(slots=True)
class Generation:
    """One answer on its way out. `arrived` is when its request came, on the clock's monotonic scale; `whole` says
    whether all of the answer went out."""

    completion: Completion
    usage: Usage
    pace: Pace
    meter: ModelMetrics
    clock: Clock
    arrived: float
    whole: bool = False

    async def run(self, emit: Callable[[Piece], Awaitable[None]]) -> None:
        """Give each token to `emit` when it is due. Times are kept on average: a token that came late does not delay
        those after it. What `emit` raises ends the run."""
        tokens = len(self.completion.pieces)
        seconds = await self.run_part(tokens, emit)
        if tokens > 1:
            self.meter.time_per_output_token.observe(seconds / (tokens - 1))
        self.meter.e2e_latency.observe(self.clock.monotonic() - self.arrived)
        self.whole = True

    async def run_part(self, most: int, emit: Callable[[Piece], Awaitable[None]]) -> float:
        """The same for at most so many tokens, of an answer that will not be whole. Returns the seconds from the first
        token to the last."""
        clock, meter, later, rng = self.clock, self.meter, self.pace.later, self.pace.rng
        due = clock.monotonic() + self.pace.first.sample(rng)
        pieces = self.completion.pieces[:most]
        if not pieces:
            await clock.sleep(due - clock.monotonic())
        first = last = 0.0
        for place, piece in enumerate(pieces):
            await clock.sleep(due - clock.monotonic())
            now = clock.monotonic()
            if place == 0:
                first = now
                meter.time_to_first_token.observe(now - self.arrived)
            else:
                meter.inter_token_latency.observe(now - last)
            meter.generation_tokens.inc()
            await emit(piece)
            last = now
            due += later.sample(rng)
        return last - first
