"""The settings say what is wrong with them."""

import pytest

from troupe.chassis.errors import InvalidArgument
from troupe.llm_sim.settings import LlmSimSettings


@pytest.fixture(autouse=True)
def _no_settings_of_this_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LlmSimSettings.model_fields:
        monkeypatch.delenv(f"TROUPE_{name.upper()}", raising=False)


def test_the_defaults_are_those_that_are_written_down() -> None:
    settings = LlmSimSettings.load()

    assert settings.listen == "127.0.0.1:7072"
    assert settings.metrics_listen == ""
    assert settings.models == ["sim"]
    assert "listen" not in settings.model_fields_set


def test_they_come_from_flags_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROUPE_TTFT", "normal:0.1,0.02")
    monkeypatch.setenv("TROUPE_MODELS", '["one", "two"]')
    monkeypatch.setenv("TROUPE_FAULT_KINDS", '["429", "silence"]')

    settings = LlmSimSettings.load({"seed": 7})

    assert (settings.seed, settings.ttft, settings.models) == (7, "normal:0.1,0.02", ["one", "two"])
    assert settings.fault_kinds == ["429", "silence"]


def test_the_key_is_not_shown() -> None:
    assert "secret" not in str(LlmSimSettings.load({"api_key": "secret"}).shown())


@pytest.mark.parametrize(
    "flags",
    [
        {"ttft": "soon"},
        {"per_token": "normal:1"},
        {"models": []},
        {"max_concurrency": 0},
        {"fault_probability": 1.5},
        {"fault_kinds": ["boom"]},
    ],
)
def test_a_bad_one_is_named(flags: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match=f"--{next(iter(flags)).replace('_', '-')}: "):
        LlmSimSettings.load(flags)
