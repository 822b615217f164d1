"""A request that says itself what the answer is to be: for benchmarks and for tests of clients."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from troupe.llm_sim import distributions
from troupe.llm_sim.distributions import Distribution
from troupe.llm_sim.faults import Fault

MOST_TOKENS = 100_000
"""The longest answer that can be asked for."""


class ScriptedCall(Struct, frozen=True, forbid_unknown_fields=True):
    """A tool call to make. Arguments that are a string go out as they are, so that they can be no JSON at all."""

    name: str
    arguments: dict[str, Any] | str = {}


class Script(Struct, frozen=True, forbid_unknown_fields=True):
    """The field `sim` of a request's body, or the same JSON in its header `x-sim`; what is left out stays as it is.

    `tool_calls` are made once: not when the last message is a tool's result already. `text` is the answer word for
    word, `tokens` an answer of exactly that many. `ttft` and `per_token` are seconds or distributions as in the
    settings."""

    tokens: Annotated[int, Meta(ge=0, le=MOST_TOKENS)] | None = None
    text: str | None = None
    tool_calls: list[ScriptedCall] = []
    ttft: str | float | None = None
    per_token: str | float | None = None
    fault: Fault | None = None

    def __post_init__(self) -> None:
        for waiting in (self.ttft, self.per_token):
            if waiting is not None:
                distributions.parse(str(waiting))

    def first_token(self, default: Distribution) -> Distribution:
        """The distribution of the time to the first token."""
        return default if self.ttft is None else distributions.parse(str(self.ttft))

    def next_token(self, default: Distribution) -> Distribution:
        """The distribution of the time from one token to the next."""
        return default if self.per_token is None else distributions.parse(str(self.per_token))


_decoder = msgspec.json.Decoder(Script)


def decode(header: str) -> Script:
    """Read the header. Raises msgspec.ValidationError or msgspec.DecodeError."""
    return _decoder.decode(header)
