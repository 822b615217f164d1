"""A service's flags are its settings."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from troupe.chassis.settings import SecretStr, Settings, setting
from troupe.cli import services
from troupe.cli.options import with_settings


class SampleSettings(Settings):
    service: ClassVar[str] = "sample"

    listen: str = setting(default="127.0.0.1:1", description="host:port to serve at")
    data: Path = setting(default_factory=lambda: Path("/made"), description="directory")
    tls_cert: Path | None = setting(default=None, description="PEM file")
    insecure: bool = setting(default=False, description="without TLS")
    checked: bool = setting(default=True, description="with checks")
    form: Literal["human", "json"] = setting(default="human", description="of lines")
    limit: int = setting(default=3, ge=1, description="most")
    names: list[str] = setting(default=["a", "b"], description="known")
    key: SecretStr = setting(default=SecretStr("hush"), description="secret")


def flags(*arguments: str) -> Mapping[str, Any]:
    """What reaches the command."""
    found: dict[str, Any] = {}

    def run(flags: Mapping[str, Any], loud: bool = False) -> None:
        found.update(flags, loud=loud)

    app = typer.Typer(add_completion=False)
    app.command()(with_settings(SampleSettings, run))
    result = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found


def test_what_is_not_given_is_none() -> None:
    assert flags("--loud") == dict.fromkeys(SampleSettings.model_fields) | {"loud": True}


def test_what_is_given_arrives_as_the_settings_take_it() -> None:
    given = flags(
        "--listen", "h:1", "--no-checked", "--insecure", "--names", "x", "--names", "y", "--tls-cert", "c.pem"
    )
    settings = SampleSettings.load({name: value for name, value in given.items() if name != "loud"})
    assert settings.listen == "h:1"
    assert (settings.checked, settings.insecure) == (False, True)
    assert settings.names == ["x", "y"]
    assert settings.tls_cert == Path("c.pem")
    assert settings.limit == 3


def test_an_empty_text_is_a_value() -> None:
    assert flags("--listen", "")["listen"] == ""


def test_the_environment_is_left_to_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a variable, when no flag is, then the flag is None: a wrong value is reported under the variable's name."""
    monkeypatch.setenv("TROUPE_LIMIT", "5")
    given = flags()
    assert given["limit"] is None
    assert SampleSettings.load({}).limit == 5


@pytest.mark.parametrize("name", services.SERVICES)
def test_help_names_every_setting_with_its_text_variable_and_default(name: str) -> None:
    settings = services.SERVICES[name].settings()
    command = get_command(services.commands(name))
    options = {one.name: one for one in command.params}
    for field, info in settings.model_fields.items():
        option = options[field]
        assert f"--{field.replace('_', '-')}" in option.opts
        assert info.description in option.help  # type: ignore[attr-defined]  # options have it
        assert f"(TROUPE_{field.upper()})" in option.help  # type: ignore[attr-defined]
    assert {"config", "print_settings", "debug"} <= options.keys()


def test_a_secret_default_is_not_shown() -> None:
    parameters = inspect.signature(with_settings(SampleSettings, lambda flags: None)).parameters
    (option,) = parameters["key"].annotation.__metadata__
    assert option.show_default is False
