"""Typed settings: one class per service, filled from flags, then the environment, then TOML, then defaults.

A service's settings are a frozen subclass of `Settings`. Each field is declared with `setting(...)`, whose text
gives the unit and why the default is what it is. The environment variable of field `turn_cap` is
`TROUPE_TURN_CAP`, its flag `--turn-cap`, its TOML key `turn_cap`: at the top of the file for every service, in
the table named after the service (`[dataplane]`) for that one.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field as setting  # noqa: N813
from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from troupe.chassis.errors import InvalidArgument

__all__ = ["SecretStr", "Settings", "setting"]

_MASK = "**********"
_URL_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]+(?=@)")


class Settings(BaseSettings):
    """Base of every service's settings. Build one with `load`."""

    model_config = SettingsConfigDict(env_prefix="TROUPE_", frozen=True, extra="forbid", env_ignore_empty=True)

    service: ClassVar[str] = ""
    """The service's name: its command and its TOML table."""

    @classmethod
    def load(cls, flags: Mapping[str, Any] | None = None, config: str | None = None) -> Self:
        """Merge all sources. Flags that are None were not given. `config` is the path of a TOML file, by default
        `TROUPE_CONFIG`. Raises InvalidArgument (NO_CONFIG, BAD_CONFIG, BAD_SETTING) with one line that names the
        setting, where its value comes from and what is allowed. `model_fields_set` of the result are the settings
        that any source gave."""
        given = {name: value for name, value in (flags or {}).items() if value is not None}
        path = config or os.environ.get("TROUPE_CONFIG") or ""
        from_file = _read(cls, path) if path else {}
        try:
            environment = EnvSettingsSource(cls)()
            return cls(**(from_file | environment | given))
        except SettingsError as error:
            name = next((name for name in cls.model_fields if f'"{name}"' in str(error)), "")
            raise InvalidArgument("BAD_SETTING", f"TROUPE_{name.upper()} is not the JSON that it must be") from error
        except ValidationError as error:
            origins = _origins(path, from_file, environment, given)
            raise InvalidArgument("BAD_SETTING", _sentence(cls, error.errors(), origins)) from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings

    def shown(self) -> dict[str, Any]:
        """The effective settings for `--print-settings`, with secrets masked, also those inside URLs."""
        return {name: _masked(value) for name, value in self.model_dump(mode="json").items()}


def _read(settings: type[Settings], path: str) -> dict[str, Any]:
    try:
        content = tomllib.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise InvalidArgument("NO_CONFIG", f"no settings file at {path}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgument("BAD_CONFIG", f"settings file {path}: {_line(error)}") from error
    own = content.get(settings.service, {})
    if not isinstance(own, dict):
        raise InvalidArgument("BAD_CONFIG", f"settings file {path}: {settings.service} must be a table")
    shared = {name: value for name, value in content.items() if not isinstance(value, dict)}
    _refuse_unknown(settings, path, own, shared, content.keys() - shared.keys())
    return {name: value for name, value in shared.items() if name in settings.model_fields} | own


def _refuse_unknown(
    settings: type[Settings], path: str, own: Iterable[str], shared: Iterable[str], tables: Iterable[str]
) -> None:
    """Tables of other services are theirs to check, unless a name is close to this one's."""
    fields = settings.model_fields
    elsewhere = {name for other in _all(Settings) for name in other.model_fields}
    unknown = {name: "--print-settings lists them" for name in own if name not in fields}
    unknown |= {name: "what one service alone has goes into its table" for name in shared if name not in elsewhere}
    for name, hint in unknown.items():
        near = _nearest(name, fields)
        why = f"did you mean {near}?" if near else hint
        raise InvalidArgument("BAD_CONFIG", f"settings file {path}: {settings.service} has no setting {name}; {why}")
    services = {other.service for other in _all(Settings)}
    for table in tables:
        if table not in services and _nearest(table, [settings.service]):
            raise InvalidArgument(
                "BAD_CONFIG", f"settings file {path}: no service is called {table}; did you mean [{settings.service}]?"
            )


def _all(base: type[Settings]) -> list[type[Settings]]:
    return [base, *(kind for derived in base.__subclasses__() for kind in _all(derived))]


def _nearest(name: str, known: Iterable[str]) -> str:
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.7)), "")


def _origins(path: str, *sources: Mapping[str, Any]) -> dict[str, str]:
    """What to call each given setting, by the source that won."""
    from_file, environment, flags = sources
    return (
        {name: f"{name} in {path}" for name in from_file}
        | {name: f"TROUPE_{name.upper()}" for name in environment}
        | {name: f"--{name.replace('_', '-')}" for name in flags}
    )


def _sentence(settings: type[Settings], problems: list[ErrorDetails], origins: Mapping[str, str]) -> str:
    first = problems[0]
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if not first["loc"]:
        return _line(message) + more
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        near = _nearest(name, settings.model_fields)
        return f"{settings.service} has no setting {name}" + (f"; did you mean {near}?" if near else "") + more
    field = settings.model_fields.get(name)
    secret = field is not None and "SecretStr" in str(field.annotation)
    got = "" if secret else f" (got {_masked(first.get('input'))!r})"
    return f"{origins.get(name, name)}: {_line(message)}{got}{more}"


def _masked(value: Any) -> Any:
    match value:
        case str():
            return _URL_PASSWORD.sub(rf"\1:{_MASK}", value)
        case dict():
            return {key: _masked(each) for key, each in value.items()}
        case list() | tuple():
            return [_masked(each) for each in value]
        case _:
            return value


def _line(text: object) -> str:
    return " ".join(str(text).split())
