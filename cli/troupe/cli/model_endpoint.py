"""Which model endpoint a fleet uses: what was named, else OpenAI's variables, else none."""

from collections.abc import Mapping
from dataclasses import dataclass

from troupe.chassis.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class ModelEndpoint:
    """An OpenAI-compatible endpoint: base URL with `/v1`, a model's name, and a bearer token or none."""

    url: str
    model: str
    key: str


def named(url: str | None, model: str | None, environment: Mapping[str, str]) -> ModelEndpoint | None:
    """`--llm`/TROUPE_LLM with `--model`/TROUPE_MODEL; where no URL is given, OPENAI_BASE_URL. The token is
    TROUPE_LLM_KEY, else OPENAI_API_KEY. None where no endpoint is named; InvalidArgument where its model is not."""
    url = url or environment.get("TROUPE_LLM") or environment.get("OPENAI_BASE_URL") or ""
    model = model or environment.get("TROUPE_MODEL") or ""
    if not url:
        return None
    if not model:
        raise InvalidArgument(
            "NO_MODEL", f"no model is named for {url}; name one that it serves with --model or TROUPE_MODEL"
        )
    return ModelEndpoint(url, model, environment.get("TROUPE_LLM_KEY") or environment.get("OPENAI_API_KEY") or "")
