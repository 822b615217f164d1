"""Which model endpoint a fleet uses: what was named, else OpenAI's variables, else none."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from troupe.chassis.errors import InvalidArgument

MODEL_TIMEOUT = 5.0
"""Seconds for the list of models: an endpoint that takes longer will not stream well either."""


@dataclass(frozen=True, slots=True)
class ModelEndpoint:
    """An OpenAI-compatible endpoint: base URL with `/v1`, a model's name, and a bearer token or none."""

    url: str
    model: str
    key: str


def named(url: str | None, model: str | None, environment: Mapping[str, str]) -> ModelEndpoint | None:
    """`--llm`/TROUPE_LLM with `--model`/TROUPE_MODEL; where no URL is given, OPENAI_BASE_URL. The token is
    TROUPE_LLM_KEY, else OPENAI_API_KEY. An endpoint that serves one model needs no name for it: it is asked, which may
    take MODEL_TIMEOUT. None where no endpoint is named; InvalidArgument where its model is not clear."""
    url = url or environment.get("TROUPE_LLM") or environment.get("OPENAI_BASE_URL") or ""
    model = model or environment.get("TROUPE_MODEL") or ""
    if not url:
        return None
    key = environment.get("TROUPE_LLM_KEY") or environment.get("OPENAI_API_KEY") or ""
    return ModelEndpoint(url, model or _only_one(url, key), key)


def served(url: str, key: str) -> list[str]:
    """The models that an endpoint lists. Blocks. Raises OSError where it cannot be asked, ValueError where it answers
    something else."""
    import urllib.request

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    models = f"{url.rstrip('/')}/models"
    if not models.startswith(("http://", "https://")):
        raise ValueError("no http:// or https:// URL")
    with urllib.request.urlopen(urllib.request.Request(models, headers=headers), timeout=MODEL_TIMEOUT) as answer:
        listed = json.loads(answer.read(1 << 20))
    try:
        return [str(one["id"]) for one in listed["data"]]
    except (KeyError, TypeError) as error:
        raise ValueError("its answer is no list of models") from error


def _only_one(url: str, key: str) -> str:
    try:
        models = served(url, key)
    except (OSError, ValueError):
        models = []
    if len(models) == 1:
        return models[0]
    such = f", such as {models[0]}," if models else ""
    raise InvalidArgument(
        "NO_MODEL", f"no model is named for {url}; name one that it serves{such} with --model or TROUPE_MODEL"
    )
