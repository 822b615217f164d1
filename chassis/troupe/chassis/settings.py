"""Typed settings: one class per service, filled from flags, then the environment, then TOML, then defaults.

A service's settings are a frozen subclass of `Settings`. Each field is declared with `setting(...)`, whose text
gives the unit and why the default is what it is. The environment variable of field `turn_cap` is
`TROUPE_TURN_CAP`, its flag `--turn-cap`, its TOML key `turn_cap`: at the top of the file for every service, in
the table named after the service (`[dataplane]`) for that one.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field as setting  # noqa: N813
from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from troupe.chassis.errors import InvalidArgument

__all__ = ["SecretStr", "Settings", "setting"]


class Settings(BaseSettings):
    """Base of every service's settings. Build one with `load`."""

    model_config = SettingsConfigDict(env_prefix="TROUPE_", frozen=True, extra="forbid", env_ignore_empty=True)

    service: ClassVar[str]
    """The service's name: its command and its TOML table."""

    @classmethod
    def load(cls, flags: Mapping[str, Any] | None = None, config: str | None = None) -> Self:
        """Merge all sources. Flags that are None were not given. `config` is the path of a TOML file, by default
        `TROUPE_CONFIG`. Raises InvalidArgument that names the setting, its source's value and what is allowed."""
        given = {name: value for name, value in (flags or {}).items() if value is not None}
        path = config or os.environ.get("TROUPE_CONFIG")
        from_file = cls._read(path) if path else {}
        environment = {name for name in cls.model_fields if f"TROUPE_{name.upper()}" in os.environ}
        merged = {name: value for name, value in from_file.items() if name not in environment} | given
        try:
            return cls(**merged)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise InvalidArgument(
                "BAD_SETTING", f"setting {name}: {first['msg']} (got {first.get('input')!r})"
            ) from error

    @classmethod
    def _read(cls, path: str) -> dict[str, Any]:
        try:
            content = tomllib.loads(Path(path).read_text())
        except FileNotFoundError as error:
            raise InvalidArgument("NO_CONFIG", f"no settings file at {path}") from error
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise InvalidArgument("BAD_CONFIG", f"settings file {path}: {error}") from error
        own = content.get(cls.service, {})
        shared = {name: value for name, value in content.items() if not isinstance(value, dict)}
        return {name: value for name, value in shared.items() if name in cls.model_fields} | own

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
        """The effective settings with secrets masked, for `--print-settings`."""
        return self.model_dump(mode="json")
