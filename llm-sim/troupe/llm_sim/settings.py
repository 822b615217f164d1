"""The settings of the simulator."""

from typing import ClassVar

from pydantic import field_validator

from troupe.chassis.service import ServiceSettings
from troupe.chassis.settings import SecretStr, setting
from troupe.llm_sim import distributions
from troupe.llm_sim.faults import FaultKind


class LlmSimSettings(ServiceSettings):
    """Everything that a simulator can be told. `ttft` and `per_token` are distributions in seconds, as `distributions`
    reads them."""

    service: ClassVar[str] = "llm-sim"

    listen: str = setting(
        default="127.0.0.1:7072",
        description="host:port to serve the API and /metrics at; loopback, so that nothing is open unasked",
    )
    metrics_listen: str = setting(
        default="", description="empty: the simulator's metrics are at the port of its API, where vLLM has them"
    )
    models: list[str] = setting(
        default=["sim"], min_length=1, description="names that requests may ask for; all of them answer alike"
    )
    ttft: str = setting(
        default="lognormal:0.05,0.15",
        description="time to the first token: a small model on one GPU, with the tail that real ones have",
    )
    per_token: str = setting(
        default="constant:0.01", description="time from token to token: 100 tokens a second, faster than people read"
    )
    seed: int = setting(
        default=0, description="of answers, times and faults: the same seed and requests give the same again"
    )
    max_concurrency: int = setting(
        default=1024, ge=1, description="requests answered at a time; more wait, in the order that they came in"
    )
    max_waiting: int = setting(default=1024, ge=0, description="requests that may wait; more are answered with 503")
    cache_blocks: int = setting(
        default=65_536, ge=0, description="blocks of 16 tokens in the prefix cache: a million tokens, about one GPU's"
    )
    api_key: SecretStr | None = setting(
        default=None, description="bearer token that /v1 and /sim ask for; none is asked for without one"
    )
    fault_probability: float = setting(
        default=0.0, ge=0, le=1, description="share of requests that fail, by one of fault_kinds"
    )
    fault_kinds: list[FaultKind] = setting(
        default=[
            FaultKind.RATE_LIMIT,
            FaultKind.SERVER_ERROR,
            FaultKind.OVERLOADED,
            FaultKind.CUT,
            FaultKind.GARBAGE,
            FaultKind.HALF,
        ],
        min_length=1,
        description="how they fail, each as likely as another; silence and stall hold clients up and are asked for",
    )

    @field_validator("ttft", "per_token")
    @classmethod
    def _is_a_distribution(cls, text: str) -> str:
        distributions.parse(text)
        return text
