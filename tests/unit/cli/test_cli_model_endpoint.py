"""Which model endpoint a fleet uses."""

import pytest

from troupe.chassis.errors import InvalidArgument
from troupe.cli import model_endpoint
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
    with pytest.raises(InvalidArgument, match=r"no model is named for http://127\.0\.0\.1:1/v1"):
        named(None, None, {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"})


@pytest.mark.parametrize(
    ("models", "said"), [(["a"], ""), (["a", "b"], "such as a,"), ([], "name one that it serves with")]
)
def test_a_model_that_is_served_alone_needs_no_name(
    monkeypatch: pytest.MonkeyPatch, models: list[str], said: str
) -> None:
    monkeypatch.setattr(model_endpoint, "served", lambda url, key: models)
    if said:
        with pytest.raises(InvalidArgument, match=said):
            named("http://o/v1", None, {})
    else:
        assert named("http://o/v1", None, {}) == ModelEndpoint("http://o/v1", "a", "")
