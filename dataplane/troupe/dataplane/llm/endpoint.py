"""A model's address and what may be asked of it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ModelTimeouts:
    """Bounds on the parts of one call, in seconds. Defaults as in resource.proto."""

    connect: float = 5.0
    """To an open connection, name look-up and TLS included."""
    first_token: float = 60.0
    """From the request to the first byte of the answer's body."""
    between_tokens: float = 30.0
    """Between two reads of it; comments that keep the connection alive count."""
    total: float = 600.0
    """The whole call; waiting for a place among the concurrent ones is not part of it."""


@dataclass(frozen=True, slots=True)
class ModelEndpoint:
    """An OpenAI-compatible endpoint with one model."""

    base_url: str
    """Up to and with `/v1`."""
    model: str
    """The name that the endpoint knows the model by."""
    api_key: str | None = field(default=None, repr=False)
    """Bearer token; None sends none."""
    timeouts: ModelTimeouts = ModelTimeouts()
    max_concurrency: int = 256
    """Calls at once; others wait in order."""
