"""What a vLLM server tells Prometheus, under vLLM's names, labels and buckets, so that its dashboards and rules fit.

Names as of vLLM 0.11 and later: the time between tokens is `inter_token_latency_seconds`, each gap observed, and
`request_time_per_output_token_seconds` is its mean over one request. Prefix cache counters count tokens.
"""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""Of what `Metrics.exposition` gives."""

FINISHED = ("stop", "length", "abort")
"""The values of `finished_reason`: a tool call ends with `stop`, what is broken off by either side with `abort`."""

_LABELS = ("model_name", "engine")
_FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
_NEXT_TOKEN = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
_REQUEST = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """The series of one model. Times are in seconds, counts in tokens or requests."""

    running: Gauge
    waiting: Gauge
    prompt_tokens: Counter
    generation_tokens: Counter
    prefix_cache_queries: Counter
    prefix_cache_hits: Counter
    finished: dict[str, Counter]
    """By each of FINISHED."""
    time_to_first_token: Histogram
    inter_token_latency: Histogram
    time_per_output_token: Histogram
    queue_time: Histogram
    e2e_latency: Histogram


class Metrics:
    """The metrics of one server, in a registry of its own: two servers in a process do not add up."""

    def __init__(self) -> None:
        registry = CollectorRegistry()

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"vllm:{name}", text, _LABELS, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"vllm:{name}", text, (*_LABELS, *labels), registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"vllm:{name}", text, _LABELS, registry=registry, buckets=buckets)

        self._registry = registry
        self._running = gauge("num_requests_running", "Requests being answered.")
        self._waiting = gauge("num_requests_waiting", "Requests that wait for one of the slots.")
        self._prompt = counter("prompt_tokens", "Tokens of prompts.")
        self._generation = counter("generation_tokens", "Tokens of answers.")
        self._queries = counter("prefix_cache_queries", "Tokens of prompts looked up in the prefix cache.")
        self._hits = counter("prefix_cache_hits", "Tokens of prompts found in the prefix cache.")
        self._finished = counter("request_success", "Requests ended, by the reason.", "finished_reason")
        self._first = histogram("time_to_first_token_seconds", "From arrival to the first token.", _FIRST_TOKEN)
        self._next = histogram("inter_token_latency_seconds", "From one token to the next.", _NEXT_TOKEN)
        self._mean = histogram(
            "request_time_per_output_token_seconds", "From token to token, mean of a request.", _NEXT_TOKEN
        )
        self._queue = histogram("request_queue_time_seconds", "From arrival to a slot.", _REQUEST)
        self._e2e = histogram("e2e_request_latency_seconds", "From arrival to the last token.", _REQUEST)

    def of(self, model: str) -> ModelMetrics:
        """The series of one model, which are there, at zero, from this call on."""
        own = (model, "0")
        return ModelMetrics(
            running=self._running.labels(*own),
            waiting=self._waiting.labels(*own),
            prompt_tokens=self._prompt.labels(*own),
            generation_tokens=self._generation.labels(*own),
            prefix_cache_queries=self._queries.labels(*own),
            prefix_cache_hits=self._hits.labels(*own),
            finished={reason: self._finished.labels(*own, reason) for reason in FINISHED},
            time_to_first_token=self._first.labels(*own),
            inter_token_latency=self._next.labels(*own),
            time_per_output_token=self._mean.labels(*own),
            queue_time=self._queue.labels(*own),
            e2e_latency=self._e2e.labels(*own),
        )

    def exposition(self) -> bytes:
        """All series in Prometheus' text format."""
        return generate_latest(self._registry)
