"""Which model endpoint a fleet uses."""

import pytest

from troupe.chassis.errors import InvalidArgument
from troupe.cli.model_endpoint import ModelEndpoint, named

OPENAI = {"OPENAI_BASE_URL": "http://o/v1", "OPENAI_API_KEY": "sk", "TROUPE_MODEL": "m"}


def test_none_is_named_without_a_url() -> None:
    assert named(None, None, {}) is None
    assert named(None, "m", {"OPENAI_API_KEY": "sk"}) is None


def test_openais_variables_are_the_fallback() -> None:
    assert named(None, None, OPENAI) == ModelEndpoint("http://o/v1", "m", "sk")


def test_flags_win_over_troupes_variables_and_those_over_openais() -> None:
    environment = OPENAI | {"TROUPE_LLM": "http://t/v1"}
    assert named(None, None, environment) == ModelEndpoint("http://t/v1", "m", "sk")
    assert named("http://f/v1", "n", environment) == ModelEndpoint("http://f/v1", "n", "sk")


def test_a_url_without_a_model_says_what_is_missing() -> None:
    with pytest.raises(InvalidArgument, match="no model is named for http://o/v1"):
        named(None, None, {"OPENAI_BASE_URL": "http://o/v1"})
